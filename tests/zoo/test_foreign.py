"""Checkpoints as other toolkits' ``torch.save`` and ``np.save`` write them, and files that mean harm."""

import json
import os
import pickle
import re
import runpy
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.errors import CheckpointError, ModelError, RecipeError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.training.checkpoint import load_state
from farvox.training.start import starting_point
from farvox.zoo import (
    LAYOUTS,
    export_checkpoint,
    import_checkpoint,
    import_embeddings,
    load_model,
    save_model,
)

SIZES = {
    "ffsvc-resnet34": {"channels": 4, "embedding_dim": 12},
    "ffsvc-ecapa": {"channels": 16, "embedding_dim": 12, "bottleneck": 8},
}
ARCHS = list(SIZES)
NUM_SPEAKERS = 7
MODEL_FILES = ["config.json", "manifest.json", "model.safetensors"]


def make_network(arch):
    torch.manual_seed(0)
    return build_model(arch, **SIZES[arch])


def make_checkpoint(network, optimiser_class=torch.optim.SGD):
    """What the baseline's training scripts save after an epoch."""
    weight = torch.nn.Parameter(torch.randn(NUM_SPEAKERS, 12))
    optimiser = optimiser_class([*network.parameters(), weight], lr=0.01, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [10, 20, 30], gamma=0.1)
    network.train()
    (network(torch.randn(2, 30, 80)).sum() + weight.sum()).backward()
    optimiser.step()
    schedule.step()
    return {
        "model": network.eval().state_dict(),
        "classifier": {"weight": weight.detach()},
        "optimizer": optimiser.state_dict(),
        "scheduler": schedule.state_dict(),
    }


def save(checkpoint, path):
    torch.save(checkpoint, path)
    return path


class Harmful:
    """Unpickling this by the ordinary way makes a file."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("optimiser_class", [torch.optim.SGD, torch.optim.Adam])
def test_a_checkpoint_becomes_a_model_with_the_same_embeddings(tmp_path, arch, optimiser_class):
    network = make_network(arch)
    checkpoint = make_checkpoint(network, optimiser_class)
    assert isinstance(checkpoint["scheduler"]["milestones"], Counter)
    import_checkpoint(save(checkpoint, tmp_path / "model_37.pkl"), tmp_path / "out", arch)
    wav_BT = 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        expected_BE = network(build_frontend(FrontEndConfig(kind="ffsvc-mel"))(wav_BT))
    assert torch.equal(load_model(tmp_path / "out").embed(wav_BT), expected_BE)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_sizes_the_origin_and_the_classifier_are_kept(tmp_path, arch):
    checkpoint = make_checkpoint(make_network(arch))
    import_checkpoint(save(checkpoint, tmp_path / "model_37.pkl"), tmp_path / "out", arch)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model"]["name"] == arch
    assert config["model"]["kwargs"].items() >= SIZES[arch].items()
    assert config["frontend"]["kind"] == "ffsvc-mel"
    assert config["imported"]["file"] == "model_37.pkl"
    classifier = load_file(tmp_path / "out" / "classifier.safetensors")
    assert torch.equal(classifier["weight"], checkpoint["classifier"]["weight"])


def test_a_checkpoint_without_classifier_leaves_none_behind(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
    out = tmp_path / "out"
    import_checkpoint(save(checkpoint, tmp_path / "a.pkl"), out, "ffsvc-resnet34")
    del checkpoint["classifier"]
    import_checkpoint(save(checkpoint, tmp_path / "a.pkl"), out, "ffsvc-resnet34")
    assert sorted(file.name for file in out.iterdir()) == MODEL_FILES


def write_spk2utt(path, count=NUM_SPEAKERS):
    """Speakers in no order, as the baseline's spk2utt has them."""
    path.write_text("".join(f"id{number} id{number}-1 id{number}-2\n" for number in range(count, 0, -1)))
    return path


def test_the_classes_of_the_classifier_are_the_lines_of_spk2utt(tmp_path):
    checkpoint = save(make_checkpoint(make_network("ffsvc-resnet34")), tmp_path / "model_37.pkl")
    out, spk2utt = tmp_path / "out", write_spk2utt(tmp_path / "spk2utt")
    import_checkpoint(checkpoint, out, "ffsvc-resnet34", spk2utt=spk2utt)
    state = load_state(out)
    assert (
        list(state.classes) == [f"id{number}" for number in range(NUM_SPEAKERS, 0, -1)] and state.epoch == 37
    )
    assert starting_point(str(out), {}, {}).classes_for("keep", sorted(state.classes)) == list(state.classes)
    import_checkpoint(checkpoint, out, "ffsvc-resnet34", epoch=12)
    assert json.loads((out / "config.json").read_text())["imported"]["epoch"] == 12
    with pytest.raises(RecipeError, match=r"'keep' needs .*farvox import --spk2utt"):
        starting_point(str(out), {}, {}).classes_for("keep", state.classes)


def test_speakers_that_are_not_the_classes_of_the_classifier_are_refused(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
    spk2utt = write_spk2utt(tmp_path / "spk2utt", NUM_SPEAKERS + 1)
    path = save(checkpoint, tmp_path / "a.pkl")
    with pytest.raises(CheckpointError, match=r"a.pkl: .* has 7 classes, and .*spk2utt 8 speakers"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34", spk2utt=spk2utt)
    del checkpoint["classifier"]
    path = save(checkpoint, tmp_path / "b.pkl")
    with pytest.raises(CheckpointError, match=r"b.pkl: holds no classifier .*; leave --spk2utt out"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34", spk2utt=spk2utt)
    assert not (tmp_path / "out").exists()
    words = ["import", "--arch", "ffsvc-resnet34", "--epoch", "3"]
    assert main([*words, str(path), str(tmp_path / "b")]) == 0
    right = str(write_spk2utt(tmp_path / "spk2utt"))
    assert main([*words, str(tmp_path / "a.pkl"), str(tmp_path / "a"), "--spk2utt", right]) == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_a_model_goes_back_to_the_baseline(tmp_path, arch):
    checkpoint = make_checkpoint(make_network(arch))
    import_checkpoint(save(checkpoint, tmp_path / "model_37.pkl"), tmp_path / "out", arch)
    export_checkpoint(tmp_path / "out", tmp_path / "model_0.pkl")
    back = torch.load(tmp_path / "model_0.pkl", weights_only=True)
    assert back["model"].keys() == checkpoint["model"].keys()
    assert all(torch.equal(tensor, checkpoint["model"][name]) for name, tensor in back["model"].items())
    assert torch.equal(back["classifier"]["weight"], checkpoint["classifier"]["weight"])


def test_what_the_baseline_cannot_compute_is_not_exported_to_it(tmp_path):
    mel = FrontEndConfig(kind="ffsvc-mel")
    kwargs = SIZES["ffsvc-ecapa"] | {"pooling": "mended"}
    save_model(tmp_path / "mended", build_model("ffsvc-ecapa", **kwargs), mel, "ffsvc-ecapa", kwargs)
    with pytest.raises(ModelError, match="no pooling = 'mended'"):
        export_checkpoint(tmp_path / "mended", tmp_path / "a.pkl")
    kwargs = {"channels": 16, "pooled_channels": 24, "embedding_dim": 12}
    save_model(tmp_path / "x", build_model("xvector", **kwargs), FrontEndConfig(), "xvector", kwargs)
    with pytest.raises(ModelError, match="a 'xvector' on kaldi-fbank"):
        export_checkpoint(tmp_path / "x", tmp_path / "a.pkl")
    with pytest.raises(ModelError, match=r"a.pt: .* must end in '.pkl'"):
        export_checkpoint(tmp_path / "x", tmp_path / "a.pt")
    assert not (tmp_path / "a.pkl").exists()


def test_embeddings_go_back_to_the_baseline(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    EmbeddingSet(list("cab"), rows, {}).save(tmp_path / "emb")
    assert main(["export", str(tmp_path / "emb"), str(tmp_path / "test_0.npy"), "--to", "ffsvc"]) == 0
    back = np.load(tmp_path / "test_0.npy", allow_pickle=True).item()  # as scoring.py reads them
    assert list(back) == list("cab") and all(
        np.array_equal(back[u], r) for u, r in zip("cab", rows, strict=True)
    )
    assert import_embeddings(tmp_path / "test_0.npy", tmp_path / "again").utt_ids == list("cab")


def test_the_prefix_of_data_parallel_is_dropped(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
    checkpoint["model"] = {f"module.{name}": tensor for name, tensor in checkpoint["model"].items()}
    model = import_checkpoint(save(checkpoint, tmp_path / "m.pkl"), tmp_path / "out", "ffsvc-resnet34")
    expected = checkpoint["model"]["module.front.conv1.weight"]
    assert torch.equal(model.network.state_dict()["front.conv1.weight"], expected)


def test_the_file_format_of_old_torch_is_read_too(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
    torch.save(checkpoint, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    assert import_checkpoint(tmp_path / "old.pkl", tmp_path / "out", "ffsvc-resnet34").embedding_dim == 12


def test_every_missing_and_unexpected_weight_is_named(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-ecapa"))
    checkpoint["model"]["fc.bias2"] = checkpoint["model"].pop("fc.bias")
    checkpoint["model"].pop("block2.bns.3.running_var")
    path = save(checkpoint, tmp_path / "m.pkl")
    message = r"missing: block2\.bns\.3\.running_var, fc\.bias; unexpected: fc\.bias2"
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path, tmp_path / "out", "ffsvc-ecapa")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_lacks_a_whole_block_is_not_a_smaller_network(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
    weights = checkpoint["model"]
    checkpoint["model"] = {n: w for n, w in weights.items() if not n.startswith("front.layer3.5.")}
    path = save(checkpoint, tmp_path / "m.pkl")
    with pytest.raises(CheckpointError, match=r"missing: front\.layer3\.5\.conv1\.weight"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34")


@pytest.mark.parametrize(("arch", "other"), [ARCHS, ARCHS[::-1]])
def test_a_checkpoint_of_the_other_architecture_is_told_apart(tmp_path, arch, other):
    path = save(make_checkpoint(make_network(arch)), tmp_path / "m.pkl")
    with pytest.raises(CheckpointError, match=f"the weights of '{arch}', not of '{other}'"):
        import_checkpoint(path, tmp_path / "out", other)


def test_a_checkpoint_of_neither_architecture_is_refused(tmp_path):
    path = save({"model": {"encoder.weight": torch.ones(3)}}, tmp_path / "m.pkl")
    with pytest.raises(CheckpointError, match=r"not the weights of 'ffsvc-ecapa', .* there are encoder"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-ecapa")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
    checkpoint["model"]["bottleneck.bias"][3] = torch.nan
    path = save(checkpoint, tmp_path / "model_32.pkl")
    with pytest.raises(CheckpointError, match=r"not finite: bottleneck\.bias"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": {}}, "no weights under 'model'; it holds weights"),
        ({"model": [1, 2]}, "no weights under 'model'; it holds model"),
        ({"model": {"conv1": 3}}, "no weights under 'model'; it holds model"),
        ({}, "no weights under 'model'; it holds nothing"),
        ([1, 2], "holds a list, not weights by name"),
        (5, "holds a int, not weights by name"),
    ],
)
def test_a_file_that_is_no_such_checkpoint_is_refused(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(save(content, tmp_path / "m.pkl"), tmp_path / "out", "ffsvc-resnet34")


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 torn", b"\x80\x02]q\x00."])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "m.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.pkl"):
        import_checkpoint(tmp_path / "m.pkl", tmp_path / "out", "ffsvc-resnet34")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = save(make_checkpoint(make_network("ffsvc-resnet34")), tmp_path / "m.pkl")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34")


def test_an_absent_file_and_an_unknown_architecture_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.pkl: cannot be read"):
        import_checkpoint(tmp_path / "absent.pkl", tmp_path / "out", "ffsvc-ecapa")
    with pytest.raises(ModelError, match="unknown architecture 'ecapa'; there are ffsvc-resnet34, ffsvc-e"):
        import_checkpoint(tmp_path / "absent.pkl", tmp_path / "out", "ecapa")


@pytest.mark.parametrize("place", ["scheduler", "model", "bare pickle"])
def test_a_checkpoint_that_means_harm_is_refused_and_does_none(tmp_path, place):
    victim, path = tmp_path / "victim", tmp_path / "m.pkl"
    if place == "bare pickle":
        path.write_bytes(pickle.dumps(Harmful(victim)))
    else:
        checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
        checkpoint[place]["extra"] = Harmful(victim)
        save(checkpoint, path)
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34")
    assert not victim.exists()
    assert not (tmp_path / "out").exists()
    if place == "bare pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert victim.exists(), "the file must be as harmful as this test needs it to be"


def test_a_classifier_of_another_model_and_an_epoch_below_0_are_refused(tmp_path):
    checkpoint = make_checkpoint(make_network("ffsvc-resnet34"))
    checkpoint["classifier"]["weight"] = torch.ones(5, 99)
    path = save(checkpoint, tmp_path / "model_37.pkl")
    with pytest.raises(CheckpointError, match="its classifier is for embeddings of 99 numbers"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34")
    path = save(make_checkpoint(make_network("ffsvc-resnet34")), tmp_path / "model_37.pkl")
    with pytest.raises(ModelError, match="epoch -3"):
        import_checkpoint(path, tmp_path / "out", "ffsvc-resnet34", epoch=-3)


@pytest.mark.parametrize(
    ("utt_id", "row", "message"),
    [
        ("a b", [1.0], "no name of an utterance"),
        ("", [1.0], "no name"),
        ("a", [0.0], "zero"),
        ("a", [np.nan], "zero or"),
    ],
)
def test_embeddings_that_nothing_can_use_are_not_imported(tmp_path, utt_id, row, message):
    np.save(tmp_path / "e.npy", np.array({utt_id: np.array(row, np.float32)}), allow_pickle=True)
    with pytest.raises(CheckpointError, match=message):
        import_embeddings(tmp_path / "e.npy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- other toolkits

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINALS = runpy.run_path(str(GOLDEN / "make_models.py"))
KEYS = json.loads((GOLDEN / "foreign_keys.json").read_text())
GIVEN = json.loads((GOLDEN / "foreign.json").read_text())
CASES = [name for name in KEYS if "small" in name] + ["wespeaker-campplus"]
ONE_EACH = {
    "3dspeaker-campplus-small": "kaldi-fbank",
    "3dspeaker-eres2netv2-small": "kaldi-fbank",
    "wespeaker-campplus": "kaldi-fbank",
    "wespeaker-resnet34-small": "kaldi-fbank",
    "wespeaker-ecapa-small": "kaldi-fbank",
    "speechbrain-ecapa-small": "speechbrain-fbank",
}


@cache
def filled(case, dtype=torch.float32):
    """The checkpoint, each weight filled by the formula of its name."""
    return {
        name: ORIGINALS["weight"](name, shape).to(dtype) if shape else torch.tensor(0)
        for name, shape in KEYS[case]["shapes"].items()
    }


def foreign(case):
    """What the toolkit's ``torch.save`` is given, each weight filled by the formula of its name."""
    classifier = {"projection.weight": torch.ones(5, 16)} if case.startswith("wespeaker") else {}
    return filled(case) | classifier


def toolkit(arch):
    """The answer where the weights of two toolkits cannot be distinguished."""
    return arch.partition("-")[0]


def distance_from_original(case, model):
    """Largest deviation, relative to the largest number in an embedding."""
    distances = []
    for num_frames, expected in GIVEN[case]["embeddings"].items():
        expected = torch.tensor(expected)
        with torch.no_grad():
            found = model.network(ORIGINALS["features"](2, int(num_frames), 80).float())
        distances.append(
            float((found[:, :: GIVEN[case]["every"]] - expected).abs().max() / expected.abs().max())
        )
    return max(distances)


@pytest.mark.parametrize("case", CASES)
def test_a_foreign_checkpoint_becomes_a_model_with_the_embeddings_of_the_original(tmp_path, case):
    arch = KEYS[case]["layout"]
    import_checkpoint(
        save(foreign(case), tmp_path / "avg_model.pt"), tmp_path / "out", arch, frontend=toolkit(arch)
    )
    model = load_model(tmp_path / "out")
    assert distance_from_original(case, model) < 1e-5
    assert model.config["imported"]["arch"] == arch
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == MODEL_FILES


@pytest.mark.parametrize(("case", "kind"), ONE_EACH.items())
def test_a_waveform_goes_through_the_front_end_of_the_toolkit(tmp_path, case, kind):
    arch = KEYS[case]["layout"]
    path = save(foreign(case), tmp_path / "m.ckpt")
    model = import_checkpoint(path, tmp_path / "out", arch, frontend=toolkit(arch))
    expected = FrontEndConfig(kind="speechbrain-fbank")
    if kind == "kaldi-fbank":
        ours = arch.startswith("3dspeaker")
        expected = FrontEndConfig(
            sample_scale=1.0 if ours else 32768.0, window="povey" if ours else "hamming"
        )
    assert model.frontend_config == expected
    wav_BT = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_BE = model.network(build_frontend(expected)(wav_BT))
    assert torch.equal(model.embed(wav_BT), expected_BE)


@pytest.mark.parametrize(
    ("case", "other"), [("speechbrain-ecapa-small", "3dspeaker"), ("3dspeaker-campplus-small", "wespeaker")]
)
def test_weights_that_two_toolkits_may_have_trained_ask_for_the_front_end(tmp_path, case, other):
    """3D-Speaker's ECAPA-TDNN has SpeechBrain's names; a CAM++ without classifier may be of either."""
    path, out = save(foreign(case), tmp_path / "m.pt"), tmp_path / "out"
    asked = "wespeaker-campplus" if "campplus" in case else "speechbrain-ecapa"
    with pytest.raises(CheckpointError, match=r"cannot be distinguished.*--frontend"):
        import_checkpoint(path, out, asked)
    assert not out.exists()
    with pytest.raises(ModelError, match="does not say what"):
        import_checkpoint(path, out, asked, frontend="ffsvc-mel")
    for frontend in ("3dspeaker", toolkit(asked)):
        model = import_checkpoint(path, out, asked, frontend=frontend)
        arch = f"{frontend}-{asked.partition('-')[2]}"
        assert model.config["imported"]["arch"] == arch
        assert model.frontend_config == LAYOUTS[arch].frontend_config(80)


def test_the_ecapa_of_3dspeaker_is_speechbrains_on_kaldi_features(tmp_path):
    path = save(foreign("speechbrain-ecapa-small"), tmp_path / "m.pt")
    model = import_checkpoint(path, tmp_path / "out", "3dspeaker-ecapa")
    assert model.frontend_config == FrontEndConfig(sample_scale=1.0)
    assert distance_from_original("speechbrain-ecapa-small", model) < 1e-5
    by_kind = import_checkpoint(path, tmp_path / "out", "speechbrain-ecapa", frontend="kaldi-fbank")
    assert by_kind.frontend_config == model.frontend_config


@pytest.mark.parametrize("case", ONE_EACH)
def test_safetensors_of_the_same_names_are_read_too(tmp_path, case):
    save_file(foreign(case), tmp_path / "m.safetensors")
    arch = KEYS[case]["layout"]
    model = import_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", arch, frontend=toolkit(arch))
    assert distance_from_original(case, model) < 1e-5


def test_safetensors_of_the_baseline_are_read_too(tmp_path):
    network = make_network("ffsvc-resnet34")
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    model = import_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", "ffsvc-resnet34")
    assert torch.equal(
        model.network.state_dict()["bottleneck.weight"], network.state_dict()["bottleneck.weight"]
    )


@pytest.mark.parametrize(
    "wrap", [lambda w: {"state_dict": w}, lambda w: {f"module.{n}": t for n, t in w.items()}]
)
def test_weights_under_state_dict_and_of_data_parallel_are_found(tmp_path, wrap):
    case = "wespeaker-ecapa-small"
    path = save(wrap(foreign(case)), tmp_path / "m.pt")
    assert distance_from_original(case, import_checkpoint(path, tmp_path / "out", "wespeaker-ecapa")) < 1e-5


@pytest.mark.parametrize("arch", LAYOUTS)
@pytest.mark.parametrize("case", ONE_EACH)
def test_the_wrong_architecture_is_answered_with_the_right_one(tmp_path, case, arch):
    """But CAM++ and SpeechBrain's ECAPA-TDNN, which have the same names in two toolkits."""
    right = KEYS[case]["layout"]
    if arch in (right, LAYOUTS[right].same_weights_as) or LAYOUTS[arch].same_weights_as == right:
        return
    path = save(foreign(case), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=f"the weights of .*'{right}'.*, not of '{arch}'"):
        import_checkpoint(path, tmp_path / "out", arch)
    assert not (tmp_path / "out").exists()


def test_the_baselines_checkpoint_is_told_from_those_of_others(tmp_path):
    path = save(make_checkpoint(make_network("ffsvc-ecapa")), tmp_path / "m.pkl")
    with pytest.raises(CheckpointError, match="the weights of 'ffsvc-ecapa', not of 'speechbrain-ecapa'"):
        import_checkpoint(path, tmp_path / "out", "speechbrain-ecapa")


@pytest.mark.parametrize("case", ONE_EACH)
def test_a_weight_missing_from_a_foreign_checkpoint_and_a_stranger_in_it_are_named(tmp_path, case):
    weights = foreign(case)
    left_out = [name for name in weights if name.endswith("running_var")][3]
    our_name = LAYOUTS[KEYS[case]["layout"]].name(left_out)
    del weights[left_out]
    path = save(weights | {"stranger.weight": torch.ones(1)}, tmp_path / "m.pt")
    message = rf"missing: {re.escape(our_name)}; unexpected: stranger\.weight"
    arch = KEYS[case]["layout"]
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path, tmp_path / "out", arch, frontend=toolkit(arch))


def renamed(old, new):
    return lambda weights: {name.replace(old, new): tensor for name, tensor in weights.items()}


def resized(name, *shape):
    return lambda weights: weights | {name: torch.zeros(shape)}


def without(prefix):
    return lambda weights: {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("wespeaker-resnet34-small", resized("layer1.0.conv3.weight", 64, 16), "ResNet50 with blocks of"),
        ("wespeaker-resnet34-small", resized("seg_2.weight", 16, 16), "two embedding layers"),
        ("wespeaker-resnet34-small", without("layer3.5."), "a ResNet with 3, 4, 5, 3 blocks"),
        ("wespeaker-resnet34-small", resized("layer1.0.convs.0.weight", 8, 8), "a Res2Net or ERes2Net"),
        ("wespeaker-resnet34-small", resized("seg_1.weight", 16, 1280), "another pooling or other features"),
        ("wespeaker-resnet34-small", resized("frontend.upstream.weight", 3, 3), "a trained front-end"),
        ("wespeaker-ecapa-small", resized("pool.prior_mean", 16), "another pooling .*'pool.prior_mean'"),
        ("wespeaker-ecapa-small", resized("linear.weight", 16, 1536), "another pooling or other features"),
        ("wespeaker-ecapa-small", resized("layer1.conv.weight", 128, 1024, 5), "1024 numbers a frame"),
        ("3dspeaker-eres2netv2-small", without("layer3_ds."), r"a Res2Net or ERes2Net \(not ERes2NetV2"),
        ("3dspeaker-eres2netv2-small", resized("seg_2.weight", 16, 16), "two embedding layers"),
        ("3dspeaker-eres2netv2-small", resized("seg_1.weight", 16, 2560), "another pooling"),
        ("wespeaker-campplus", resized("xvector.stats.linear1.weight", 9, 9), "a pooling that has weights"),
        ("wespeaker-campplus", resized("xvector.dense.linear.weight", 512, 512, 1), "another pooling"),
        ("speechbrain-ecapa-small", resized("asp.tdnn.conv.conv.weight", 24, 48, 1), "no global context"),
        ("speechbrain-ecapa-small", resized("blocks.1.shortcut.conv.weight", 9, 9), "different widths"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", ["own", "ffsvc-ecapa"])
def test_a_relative_that_has_no_network_here_is_named(tmp_path, case, change, message, asked):
    arch = KEYS[case]["layout"]
    path = save(change(foreign(case)), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=f"{message}.*, which farvox does not have; .*' takes "):
        import_checkpoint(path, tmp_path / "out", arch if asked == "own" else asked)


@pytest.mark.parametrize("arch", LAYOUTS)
def test_redimnet_is_refused_by_its_name(tmp_path, arch):
    released = {
        "model_config": {"F": 72, "C": 12, "out_channels": 512, "block_1d_type": "conv+att"},
        "state_dict": {
            "backbone.stem.0.weight": torch.ones(12, 1, 3, 3),
            "linear.weight": torch.ones(192, 1024),
        },
    }
    path = save(released, tmp_path / "b2-vox2-ft_lm.pt")
    with pytest.raises(CheckpointError, match="as ReDimNet is published; farvox has no ReDimNet"):
        import_checkpoint(path, tmp_path / "out", arch)


def test_our_own_weights_are_no_foreign_checkpoint(tmp_path):
    case = "wespeaker-resnet34-small"
    import_checkpoint(save(foreign(case), tmp_path / "m.pt"), tmp_path / "out", "wespeaker-resnet34")
    ours = tmp_path / "out" / "model.safetensors"
    with pytest.raises(CheckpointError, match="not the weights of 'wespeaker-resnet34'"):
        import_checkpoint(ours, tmp_path / "again", "wespeaker-resnet34")


@pytest.mark.parametrize("content", [b"", b"not safetensors", bytes(100)])
def test_a_damaged_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: cannot be read as weights"):
        import_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", "speechbrain-ecapa")


@pytest.mark.parametrize("arch", LAYOUTS)
def test_harm_is_refused_under_every_architecture_and_suffix(tmp_path, arch):
    victim = tmp_path / "victim"
    for name in ("m.pt", "m.safetensors"):
        save({"state_dict": {"conv1.weight": Harmful(victim)}}, tmp_path / name)
        with pytest.raises(CheckpointError):
            import_checkpoint(tmp_path / name, tmp_path / "out", arch)
    assert not victim.exists()


def test_the_published_campplus_of_3dspeaker_is_taken_whole(tmp_path):
    if "FARVOX_CAMPPLUS" not in os.environ:
        pytest.skip("needs the published weights: set FARVOX_CAMPPLUS to campplus_cn_en_common.pt")
    path = Path(os.environ["FARVOX_CAMPPLUS"])
    model = import_checkpoint(path, tmp_path / "out", "3dspeaker-campplus")
    assert model.config["imported"]["sha256"].startswith("92f29b94e6948786")
    assert (model.embedding_dim, model.network.num_mels) == (192, 80)
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    shapes = {name: list(tensor.shape) for name, tensor in theirs.items()}
    assert shapes == KEYS["3dspeaker-campplus"]["shapes"]
    values = sum(tensor.numel() for tensor in theirs.values())
    assert values == sum(tensor.numel() for tensor in model.network.state_dict().values())
    emb_BE = model.embed(0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)))
    assert emb_BE.shape == (2, 192) and emb_BE.isfinite().all()


# ---------------------------------------------------------------- embeddings


def save_embeddings(path, saved):
    np.save(path, saved, allow_pickle=True)
    return path


def test_embeddings_keep_their_order_and_values(tmp_path):
    rng = np.random.default_rng(0)
    saved = {f"utt{i}": rng.standard_normal(12).astype(np.float32) for i in (3, 1, 2)}
    import_embeddings(save_embeddings(tmp_path / "test_37.npy", saved), tmp_path / "out")
    loaded = EmbeddingSet.load(tmp_path / "out")
    assert loaded.utt_ids == ["utt3", "utt1", "utt2"]
    np.testing.assert_array_equal(loaded.embeddings, np.stack(list(saved.values())))
    assert loaded.meta == {"imported": "test_37.npy"}


@pytest.mark.parametrize(
    ("protocol", "core"), [(3, b"numpy.core"), (3, b"numpy._core"), (4, b"numpy._core"), (5, b"numpy._core")]
)
def test_pickles_of_older_and_newer_numpy_are_read(tmp_path, protocol, core):
    wrapped = np.array({"a": np.arange(4, dtype=np.float32), "b": np.ones(4, dtype=np.float32)}, dtype=object)
    pickled = pickle.dumps(wrapped, protocol=protocol).replace(b"numpy._core", core)
    with (tmp_path / "e.npy").open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(pickled)
    found = import_embeddings(tmp_path / "e.npy", tmp_path / "out")
    np.testing.assert_array_equal(found.embeddings, [[0, 1, 2, 3], [1, 1, 1, 1]])


def test_embeddings_that_mean_harm_are_refused_and_do_none(tmp_path):
    victim = tmp_path / "victim"
    saved = {"a": np.ones(4, dtype=np.float32), "b": Harmful(victim)}
    path = save_embeddings(tmp_path / "e.npy", saved)
    with pytest.raises(CheckpointError, match=r"refers to '.*\.system', which is code"):
        import_embeddings(path, tmp_path / "out")
    assert not victim.exists()
    np.load(path, allow_pickle=True)
    assert victim.exists()


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, "does not hold a dict"),
        (np.ones(3), "not a dict saved by numpy"),
        (np.array([None, 1], dtype=object), "not a dict saved by numpy"),
        ({"a": np.ones(4), "b": np.ones(5)}, "embedding of 'b' is float64 of shape"),
        ({"a": np.ones((2, 4))}, "embedding of 'a'"),
        ({"a": np.ones(4), 7: np.ones(4)}, "embedding of '7'"),
        ({"a": np.ones(4, dtype=np.int64)}, "embedding of 'a' is int64"),
        ({"a": "text"}, "embedding of 'a'"),
    ],
)
def test_what_is_no_dict_of_embeddings_is_refused(tmp_path, saved, message):
    with pytest.raises(CheckpointError, match=message):
        import_embeddings(save_embeddings(tmp_path / "e.npy", saved), tmp_path / "out")


def test_what_is_no_checkpoint_at_all_is_told_what_one_is(tmp_path):
    (tmp_path / "random.bin").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(CheckpointError, match=r"of torch\.save \(\.pt, \.ckpt, \.pkl\), nor a \.safetensors"):
        import_checkpoint(tmp_path / "random.bin", tmp_path / "out", "ffsvc-resnet34")
    with pytest.raises(CheckpointError, match=r"not a dict saved by numpy \(\.npy\)"):
        import_embeddings(tmp_path / "random.bin", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00" + bytes(80)])
def test_a_damaged_embedding_file_is_refused(tmp_path, content):
    (tmp_path / "e.npy").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"e\.npy"):
        import_embeddings(tmp_path / "e.npy", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"absent\.npy: cannot be read"):
        import_embeddings(tmp_path / "absent.npy", tmp_path / "out")


def test_bare_weights_are_refused_in_few_words(tmp_path):
    torch.save(make_network("ffsvc-resnet34").state_dict(), tmp_path / "bare.pkl")
    with pytest.raises(CheckpointError, match=r"no weights under 'model'; it holds .*, \.\.\.$") as refused:
        import_checkpoint(tmp_path / "bare.pkl", tmp_path / "out", "ffsvc-resnet34")
    assert len(str(refused.value)) < 400


ALL_CASES = [name for name in KEYS if name != "origin"]
WESPEAKER = [name for name in ALL_CASES if name.startswith("wespeaker")]


def empty(case):
    """The checkpoint without values."""
    return {name: torch.empty(shape, device="meta") for name, shape in KEYS[case]["shapes"].items()}


def network_of(layout, weights):
    return build_model(layout.model, **layout.sizes(weights))


def test_every_layout_of_another_toolkit_has_a_case():
    foreign = {name for name, layout in LAYOUTS.items() if layout.renames} - {"3dspeaker-ecapa"}
    assert {KEYS[case]["layout"] for case in ALL_CASES} == foreign


@pytest.mark.parametrize("case", ALL_CASES)
def test_every_weight_of_the_original_has_one_place_in_the_network(case):
    layout, theirs = LAYOUTS[KEYS[case]["layout"]], empty(case)
    names = [layout.name(name) for name in theirs]
    assert None not in names
    assert len(set(names)) == len(names)
    ours = layout.translated(theirs)
    assert sum(tensor.numel() for tensor in ours.values()) == sum(t.numel() for t in theirs.values())


@pytest.mark.parametrize("case", ALL_CASES)
def test_every_place_in_the_network_is_filled_and_the_shapes_fit(case):
    layout = LAYOUTS[KEYS[case]["layout"]]
    ours = layout.translated(empty(case))
    with torch.device("meta"):
        wanted = network_of(layout, ours).state_dict()
    assert ours.keys() == wanted.keys()
    shapes = {name: (tuple(ours[name].shape), tuple(wanted[name].shape)) for name in wanted}
    assert {name: pair for name, pair in shapes.items() if pair[0] not in (pair[1], (*pair[1], 1))} == {}


@pytest.mark.parametrize("case", ALL_CASES)
def test_the_network_gives_the_embeddings_of_the_original(case):
    layout = LAYOUTS[KEYS[case]["layout"]]
    ours = layout.translated(filled(case, torch.float64))
    network = network_of(layout, ours).double().eval()
    network.load_state_dict({n: ours[n].reshape(old.shape) for n, old in network.state_dict().items()})
    for num_frames, expected in GIVEN[case]["embeddings"].items():
        expected = torch.tensor(expected, dtype=torch.float64)
        with torch.no_grad():
            found = network(ORIGINALS["features"](2, int(num_frames), 80))[:, :: GIVEN[case]["every"]]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("case", WESPEAKER)
def test_the_classifier_of_wespeaker_is_left_out(case):
    layout, theirs = LAYOUTS[KEYS[case]["layout"]], empty(case)
    classifier = {"projection.weight": torch.empty(5, 16), "projection.trans.2.bias": torch.empty(5)}
    assert layout.translated(theirs | classifier).keys() == layout.translated(theirs).keys()


@pytest.mark.parametrize("case", ALL_CASES)
def test_no_checkpoint_of_a_case_is_taken_for_a_relative(case):
    assert LAYOUTS[KEYS[case]["layout"]].variant(empty(case)) == ""


@pytest.mark.parametrize("case", ALL_CASES)
def test_a_checkpoint_fits_no_layout_but_its_own(case):
    """But CAM++ of WeSpeaker and 3D-Speaker, and ECAPA-TDNN of SpeechBrain and 3D-Speaker."""
    own = KEYS[case]["layout"]
    fitting = {
        name
        for name, layout in LAYOUTS.items()
        if layout.sizes(layout.translated(empty(case))) and not layout.variant(empty(case))
    }
    of_two = {"wespeaker-campplus", "3dspeaker-campplus"}, {"speechbrain-ecapa", "3dspeaker-ecapa"}
    assert fitting == next((names for names in of_two if own in names), {own})


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_weights_by_our_own_names_are_not_a_foreign_checkpoint(layout):
    with torch.device("meta"):
        weights = build_model(layout.model).state_dict()
    assert bool(layout.sizes(layout.translated(weights))) == (not layout.renames)


def test_two_weights_of_one_name_of_ours_are_both_kept():
    theirs = {name: torch.zeros(1) for name in ("head.bn1.bias", "head.conv1.weight", "front.conv1.weight")}
    ours = LAYOUTS["3dspeaker-campplus"].translated(theirs)
    assert list(ours) == ["front.bn1.bias", "front.conv1.weight", "front.conv1.weight (twice)"]


def test_each_toolkit_has_its_front_end():
    hamming = FrontEndConfig(window="hamming", sample_scale=32768.0)
    for name in ("3dspeaker-campplus", "3dspeaker-eres2netv2", "3dspeaker-ecapa"):
        assert LAYOUTS[name].frontend_config(80) == FrontEndConfig(sample_scale=1.0)
    for name in ("wespeaker-campplus", "wespeaker-resnet34", "wespeaker-ecapa"):
        assert LAYOUTS[name].frontend_config(80) == hamming
    assert LAYOUTS["speechbrain-ecapa"].frontend_config(60) == FrontEndConfig(
        kind="speechbrain-fbank", num_mels=60
    )
    assert LAYOUTS["ffsvc-ecapa"].frontend_config(80) == FrontEndConfig(kind="ffsvc-mel")
