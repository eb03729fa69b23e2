import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as fn

from farvox.audio.files import read_audio
from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import CheckpointError, MissingExtraError, ModelError
from farvox.features.frontend import FrontEndConfig
from farvox.models import wavlm
from farvox.models.registry import build_head, build_model
from farvox.models.wavlm import FIELDS, hidden_layers, samples_for
from farvox.zoo import load_model, save_model
from farvox.zoo.foreign import import_wavlm

transformers = pytest.importorskip("transformers")

GOLDEN = Path(__file__).parents[1] / "golden"

TINY = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2]},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 1},
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
SIZES = {"num_mels": 160, "channels": 16, "bottleneck": 8, "embedding_dim": 12}


def network(wavlm=TINY, **kwargs):
    torch.manual_seed(0)
    return build_model("wavlm-ecapa", wavlm=wavlm, **SIZES | kwargs)


def features(num_utterances=3):
    return torch.randn(num_utterances, 30, 160, generator=torch.Generator().manual_seed(2))


def after_a_step(network):
    """The names of the weights of WavLM that a training step changed; the others are the same bit by bit."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    head = build_head("aam", 12, 3)
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW([*parameters, *head.parameters()], lr=1e-2, weight_decay=0.1)
    fn.cross_entropy(head(network(features()), torch.arange(3)), torch.arange(3)).backward()
    optimiser.step()
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_frozen_wavlm_is_the_same_bit_by_bit_after_a_step():
    changed = after_a_step(network())
    assert "layer_weights_L" in changed and "ecapa.embedding.weight" in changed
    assert not any(name.startswith("backbone.") for name in changed)


def test_a_tuned_wavlm_learns_but_its_convolutions_do_not():
    changed = after_a_step(network(tune=True))
    assert "backbone.encoder.layers.1.feed_forward.output_dense.weight" in changed
    assert "backbone.feature_projection.projection.weight" in changed
    assert not any(name.startswith("backbone.feature_extractor.") for name in changed)


@pytest.mark.parametrize("sizes", [TINY, TINY | LARGE])
def test_on_request_the_convolutions_are_tuned_and_nothing_is_left_without_a_gradient(sizes):
    tuned = network(sizes, tune=True, tune_extractor=True)
    assert "backbone.feature_extractor.conv_layers.0.conv.weight" in after_a_step(tuned)
    assert [n for n, p in tuned.named_parameters() if not p.requires_grad or p.grad is None] == []


def test_a_frozen_wavlm_does_not_drop_out_in_training():
    frozen = network().train()
    layers, again = (hidden_layers(frozen.backbone, features().flatten(1)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(layers, again, strict=True))
    tuned = network(tune=True).train()
    layers, again = (hidden_layers(tuned.backbone, features().flatten(1)) for _ in range(2))
    assert not torch.equal(layers[-1], again[-1])


@pytest.mark.parametrize("sizes", [TINY, TINY | LARGE])
def test_the_layers_are_those_of_transformers(sizes):
    backbone = network(sizes).eval().backbone
    wav_BT = features().flatten(1)
    theirs = backbone(wav_BT, output_hidden_states=True)
    layers = hidden_layers(backbone, wav_BT)
    assert len(layers) == 3
    for ours, hidden in zip(layers[:-1], theirs.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours, hidden)
    torch.testing.assert_close(layers[-1], theirs.last_hidden_state)


def test_ecapa_hears_the_weighted_sum_of_the_layers():
    frozen = network().eval()
    with torch.no_grad():
        frozen.layer_weights_L.copy_(torch.tensor([-100.0, 100.0, -100.0]))
        middle_BFD = hidden_layers(frozen.backbone, features().flatten(1))[1]
        centred_BFD = middle_BFD - middle_BFD.mean(dim=1, keepdim=True)
        levelled_BFD = centred_BFD / (centred_BFD.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(frozen(features()), frozen.ecapa(levelled_BFD), atol=1e-5, rtol=1e-4)


def test_the_shortest_utterance_has_two_frames():
    base = transformers.WavLMConfig()
    assert samples_for(1, base.conv_kernel, base.conv_stride) == 400
    assert samples_for(2, base.conv_kernel, base.conv_stride) == 720
    assert samples_for(3, base.conv_kernel, base.conv_stride) == 1040
    assert network(num_mels=1).min_frames == samples_for(2, [10, 3], [5, 2]) == 30


def test_a_saved_model_gives_the_same_embeddings(tmp_path):
    kwargs = {"wavlm": TINY, "tune": True, **SIZES}
    trained = network(tune=True)
    after_a_step(trained)
    save_model(tmp_path / "m", trained, FrontEndConfig(kind="waveform", num_mels=160), "wavlm-ecapa", kwargs)
    model = load_model(tmp_path / "m")
    wav_BT = 0.1 * torch.randn(2, 8000)
    assert torch.equal(model.embed(wav_BT), trained.eval()(model.frontend(wav_BT)))
    assert model.min_samples == 160


def test_what_is_extracted_side_by_side_is_what_the_network_gives(tmp_path, corpus):
    kwargs = {"wavlm": TINY | LARGE, **SIZES}
    frontend = FrontEndConfig(kind="waveform", num_mels=160)
    save_model(tmp_path / "m", network(TINY | LARGE), frontend, "wavlm-ecapa", kwargs)
    words = ["extract", tmp_path / "m", corpus / "dev", tmp_path / "emb", "--device", "cpu", "--threads", 4]
    assert main([str(word) for word in words]) == 0
    found = EmbeddingSet.load(tmp_path / "emb")
    model = load_model(tmp_path / "m")
    for utt_id, emb_E in zip(found.utt_ids, found.embeddings, strict=True):
        wav_T = torch.from_numpy(read_audio(corpus / f"dev/wav/{utt_id}.wav"))
        torch.testing.assert_close(
            torch.from_numpy(emb_E.copy()),
            model.network(model.frontend(wav_T[None]))[0],
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.fixture
def pretrained(tmp_path):
    """A folder as transformers writes it; the weights are random."""
    torch.manual_seed(5)
    transformers.WavLMModel(transformers.WavLMConfig(**TINY)).save_pretrained(tmp_path / "wavlm")
    return tmp_path / "wavlm"


def test_a_pretrained_wavlm_comes_from_a_folder(pretrained):
    ours = network(str(pretrained)).eval().backbone
    theirs = transformers.WavLMModel.from_pretrained(pretrained).eval()
    wav_BT = features().flatten(1)
    torch.testing.assert_close(ours(wav_BT).last_hidden_state, theirs(wav_BT).last_hidden_state)


def test_a_pretrained_wavlm_gets_a_manifest_if_it_can_be_loaded(pretrained, capsys):
    assert main(["models", str(pretrained), "--renew-manifest"]) == 0
    listed = (pretrained / "manifest.json").read_bytes()
    weights = pretrained / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert main(["models", str(pretrained), "--renew-manifest"]) == 1
    assert f"{weights}: cannot be read as weights" in capsys.readouterr().err
    assert (pretrained / "manifest.json").read_bytes() == listed


def test_a_saved_model_needs_the_pretrained_one_no_more(pretrained, tmp_path):
    kwargs = {"wavlm": str(pretrained), **SIZES}
    trained = network(str(pretrained))
    save_model(tmp_path / "m", trained, FrontEndConfig(kind="waveform", num_mels=160), "wavlm-ecapa", kwargs)
    for file in pretrained.iterdir():
        file.unlink()
    assert json.loads((tmp_path / "m/config.json").read_text())["model"]["kwargs"]["wavlm"].keys() == set(
        FIELDS
    )
    wav_BT = 0.1 * torch.randn(2, 8000)
    model = load_model(tmp_path / "m")
    assert torch.equal(model.embed(wav_BT), trained.eval()(model.frontend(wav_BT)))


def test_weights_of_a_model_around_wavlm_are_found_by_their_old_names_too(pretrained):
    path = pretrained / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    wanted = network(str(pretrained)).backbone.state_dict()
    renamed = {"projector.weight": torch.zeros(2, 2)}
    for name, tensor in weights.items():
        old = name.replace("parametrizations.weight.original0", "weight_g")
        renamed["wavlm." + old.replace("parametrizations.weight.original1", "weight_v")] = tensor
    save_file(renamed, path)
    found = network(str(pretrained)).backbone.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_weights_that_do_not_fit_their_configuration_are_refused(pretrained):
    config = json.loads((pretrained / "config.json").read_text())
    (pretrained / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(CheckpointError, match=r"does not fit the config\.json beside it: 6 of 52 weights"):
        network(str(pretrained))
    (pretrained / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        network(str(pretrained))


def test_pickled_weights_are_never_read(pretrained):
    (pretrained / "model.safetensors").rename(pretrained / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no model\.safetensors; weights are read as safetensors only"):
        network(str(pretrained))


def test_a_folder_of_another_model_is_refused(pretrained):
    (pretrained / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(ModelError, match="not the configuration of a WavLM"):
        network(str(pretrained))


def test_a_name_that_huggingface_does_not_give_is_refused(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError, match=r"'nobody/nothing': no such folder here, and huggingface\.co does not"
    ):
        network("nobody/nothing")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no-such-folder", "no such folder, and not a name"),
        ({"hiden_size": 16}, "no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"layerdrop": 0.1}, "no field 'layerdrop'; did you mean"),
        ({**TINY, "num_attention_heads": 3}, "no WavLM can be built"),
        ({**TINY, "hidden_size": "wide"}, "no WavLM can be built"),
        (7, "give a table of sizes, a folder or a name"),
    ],
)
def test_what_is_no_wavlm_is_refused(value, message):
    with pytest.raises(ModelError, match=message):
        network(value)


def test_a_missing_library_is_named_with_its_extra():
    with pytest.raises(MissingExtraError, match=r"WavLM needs no_such_library: pip install 'farvox\[ssl\]'"):
        wavlm._require("no_such_library")


MICROSOFT = json.loads((GOLDEN / "wavlm.json").read_text())


def microsoft(kind, **changes):
    """A checkpoint as Microsoft publishes it, each weight filled by the formula of its name."""
    weight = runpy.run_path(str(GOLDEN / "make_models.py"))["weight"]
    shapes = MICROSOFT[kind]["shapes"]
    model = {name: weight(name, shape).float() for name, shape in shapes.items()}
    return {"cfg": MICROSOFT[kind]["cfg"] | changes, "model": model}


@pytest.mark.parametrize("kind", MICROSOFT)
def test_microsofts_file_becomes_a_folder_with_the_output_of_its_own_code(tmp_path, capsys, kind):
    torch.save(microsoft(kind), tmp_path / "WavLM.pt")
    assert main(["import", str(tmp_path / "WavLM.pt"), str(tmp_path / "wavlm"), "--arch", "wavlm"]) == 0
    mean = "utterance" if kind == "large" else "none"
    assert f'features.mean = "{mean}"' in capsys.readouterr().out
    assert network(str(tmp_path / "wavlm")).trained_mean == mean
    wav_BT = runpy.run_path(str(GOLDEN / "make_wavlm.py"))["waveform"]().float()
    expected = torch.tensor(MICROSOFT[kind]["output"])
    theirs = transformers.WavLMModel.from_pretrained(tmp_path / "wavlm").eval()
    with torch.no_grad():
        for output_BFD in (
            hidden_layers(network(str(tmp_path / "wavlm")).eval().backbone, wav_BT)[-1],
            theirs(wav_BT).last_hidden_state,
        ):
            torch.testing.assert_close(output_BFD[:, ::7, ::5], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gru_rel_pos": False}, "without gru_rel_pos"),
        ({"extractor_mode": "conv2d"}, "extractor_mode = 'conv2d'"),
        ({"conv_feature_layers": "__import__('os')"}, "is not a sum of lists"),
        ({"conv_feature_layers": "[(24,10,5)] * 9999999999"}, "is not a sum of lists"),
        ({"conv_feature_layers": f"[({'9' * 5000},10,5)]"}, "is not a sum of lists"),
        ({"encoder_layers": 3}, "weights are missing, unknown or of another shape"),
    ],
)
def test_a_microsoft_file_of_another_kind_is_refused(tmp_path, change, message):
    torch.save(microsoft("base", **change), tmp_path / "WavLM.pt")
    with pytest.raises(CheckpointError, match=message):
        import_wavlm(tmp_path / "WavLM.pt", tmp_path / "wavlm")
    assert not (tmp_path / "wavlm").exists()


def test_what_is_no_microsoft_file_is_named_and_the_way_to_import_is_said(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "WavLM.pt")
    with pytest.raises(CheckpointError, match="not Microsoft's WavLM, a dict with 'cfg' and 'model'"):
        import_wavlm(tmp_path / "WavLM.pt", tmp_path / "wavlm")
    with pytest.raises(ModelError, match=r"farvox import WavLM-Large\.pt FOLDER --arch wavlm"):
        network(str(tmp_path / "WavLM.pt"))
