import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from farvox.errors import AudioError, CheckpointError, ModelError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo import Card, find_model, load_model, save_model

KWARGS = {"channels": 4, "blocks": (1, 1, 1, 1), "embedding_dim": 12, "num_mels": 20}
FRONTEND = FrontEndConfig(num_mels=20, sample_scale=1.0, window="hamming")


def make_model(folder, seed=0, **extra):
    torch.manual_seed(seed)
    network = build_model("resnet34", **KWARGS)
    save_model(folder, network, FRONTEND, "resnet34", KWARGS, extra)
    return network.eval()


def make_run(run_dir, epochs=(0, 2, 10)):
    return {n: make_model(run_dir / "checkpoints" / f"epoch_{n:03d}", seed=n) for n in epochs}


def waveforms():
    return 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(3))


def weights_equal(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def edit_config(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))
    (folder / "manifest.json").unlink()


def test_a_loaded_model_embeds_as_the_saved_one(tmp_path):
    network = make_model(tmp_path / "model")
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        expected_BE = network(build_frontend(FRONTEND)(waveforms()))
    assert torch.equal(model.embed(waveforms()), expected_BE)
    assert (model.embedding_dim, model.frontend_config, model.device.type) == (12, FRONTEND, "cpu")


def test_the_config_says_in_full_what_the_model_is(tmp_path):
    make_model(tmp_path, epoch=3, recipe={"seed": 1})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {
        "format": "farvox-model/1",
        "farvox_version": config["farvox_version"],
        "frontend": FRONTEND.to_dict(),
        "model": {"name": "resnet34", "kwargs": KWARGS | {"blocks": [1, 1, 1, 1]}},
        "embedding_dim": 12,
        "epoch": 3,
        "recipe": {"seed": 1},
    }
    assert load_model(tmp_path).config == config


def test_embedding_is_done_in_evaluation_mode_without_a_gradient(tmp_path):
    make_model(tmp_path)
    model = load_model(tmp_path)
    first_BE = model.embed(waveforms())
    model.network.train()
    assert torch.equal(model.embed(waveforms()), first_BE)
    assert not first_BE.requires_grad


def test_too_short_an_utterance_is_an_audio_error(tmp_path):
    make_model(tmp_path)
    model = load_model(tmp_path)
    assert model.embed(torch.randn(1, model.min_samples)).isfinite().all()
    with pytest.raises(AudioError):
        model.embed(torch.randn(1, model.min_samples - 1))


def test_saving_again_replaces_the_model_and_leaves_other_files(tmp_path):
    make_model(tmp_path, seed=1)
    (tmp_path / "notes.txt").write_text("mine")
    second = make_model(tmp_path, seed=2)
    assert weights_equal(load_model(tmp_path).network, second)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "notes.txt",
    ]


def test_the_files_of_a_model_are_as_readable_as_any_other(tmp_path):
    make_model(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1


def test_a_model_that_cannot_be_replaced_stays(tmp_path):
    make_model(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    unsaveable = build_model("resnet34", **KWARGS)
    unsaveable.state_dict = lambda: {"a": "not a tensor"}
    with pytest.raises(AttributeError):
        save_model(tmp_path, unsaveable, FRONTEND, "resnet34", KWARGS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    load_model(tmp_path)


def test_an_extra_entry_cannot_pose_as_one_of_the_format(tmp_path):
    with pytest.raises(ModelError, match="'frontend'"):
        make_model(tmp_path, frontend={})
    assert not list(tmp_path.iterdir())


def test_a_run_dir_stands_for_its_last_complete_epoch(tmp_path):
    networks = make_run(tmp_path)
    (tmp_path / "checkpoints" / "epoch_011").mkdir()
    (tmp_path / "checkpoints" / ".tmp-epoch_012").mkdir()
    (tmp_path / "checkpoints" / "epoch_best").mkdir()
    assert find_model(tmp_path).name == "epoch_010"
    assert weights_equal(load_model(tmp_path).network, networks[10])


def test_an_epoch_of_a_run_is_named_by_its_number(tmp_path):
    networks = make_run(tmp_path)
    assert weights_equal(load_model(f"{tmp_path}@2").network, networks[2])
    assert weights_equal(load_model(f"{tmp_path}@0").network, networks[0])
    with pytest.raises(ModelError, match="no epoch 3; it has 0, 2, 10"):
        load_model(f"{tmp_path}@3")


def test_a_folder_with_an_at_sign_in_its_name_is_still_a_folder(tmp_path):
    make_model(tmp_path / "resnet@7")
    assert find_model(tmp_path / "resnet@7") == tmp_path / "resnet@7"
    make_run(tmp_path / "run@7")
    assert find_model(f"{tmp_path}/run@7@2").name == "epoch_002"


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model '.*nowhere': there is no such folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="nowhere@3': there is no such folder"):
        load_model(f"{tmp_path}/nowhere@3")
    with pytest.raises(ModelError, match=r"neither config\.json .* nor a complete checkpoints/epoch_NNN"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "'format' is not 'farvox-model/1'"),
        ('{"format": "farvox-model/2"}', "'format' is not 'farvox-model/1'"),
        ('{"format": "farvox-model/1"}', "'frontend' and 'model' must both be there"),
        ('{"format": "farvox-model/1", "frontend": {}, "model": {}}', "a 'name' and 'kwargs'"),
        (
            '{"format": "farvox-model/1", "frontend": {}, "model": {"name": "vgg", "kwargs": {}}}',
            "model 'vgg': name = 'vgg'",
        ),
        (
            '{"format": "farvox-model/1", "frontend": {"knd": 1}, "model": {"name": "ecapa", "kwargs": {}}}',
            "unknown key 'knd'",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_a_clear_error(tmp_path, text, message):
    make_model(tmp_path)
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_a_front_end_that_does_not_feed_the_network_is_refused(tmp_path):
    make_model(tmp_path)
    edit_config(tmp_path, frontend=FrontEndConfig(num_mels=40).to_dict())
    with pytest.raises(ModelError, match="gives 40 mels, the network takes 20"):
        load_model(tmp_path)


def test_every_weight_that_does_not_fit_is_named(tmp_path):
    make_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["surprise"] = weights.pop("front.bn1.bias")
    weights["embedding.bias"] = torch.zeros(13)
    weights["front.conv1.weight"][0, 0, 1, 1] = torch.nan
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: the weights do not fit ResNet34: missing: front.bn1.bias; "
        "unexpected: surprise; of another shape: embedding.bias [13] instead of [12]; "
        "not finite: front.conv1.weight"
    )


def test_a_damaged_or_absent_weight_file_is_named(tmp_path):
    make_model(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or changed"):
        load_model(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read as weights"):
        load_model(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read as weights"):
        load_model(tmp_path)


def test_a_device_that_is_not_there_is_named(tmp_path):
    make_model(tmp_path)
    with pytest.raises(ModelError, match="device 'tpu' is not available here"):
        load_model(tmp_path, device="tpu")


def test_a_card_does_not_outlive_the_weights_it_speaks_of(tmp_path):
    make_model(tmp_path)
    Card(threshold=0.4).save(tmp_path)
    make_model(tmp_path)
    assert Card.load(tmp_path) == Card()
