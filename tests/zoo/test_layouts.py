"""The key maps against the toolkits' own state dicts; see tests/golden/make_foreign.py for the origins."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.zoo.layouts import LAYOUTS

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINALS = runpy.run_path(str(GOLDEN / "make_models.py"))
KEYS = json.loads((GOLDEN / "foreign_keys.json").read_text())
GIVEN = json.loads((GOLDEN / "foreign.json").read_text())
CASES = [name for name in KEYS if name != "origin"]
WESPEAKER = [name for name in CASES if name.startswith("wespeaker")]


def filled(case):
    """The checkpoint, each weight filled by the formula of its name."""
    return {
        name: ORIGINALS["weight"](name, shape) if shape else torch.tensor(0)
        for name, shape in KEYS[case]["shapes"].items()
    }


def empty(case):
    """The checkpoint without values."""
    return {name: torch.empty(shape, device="meta") for name, shape in KEYS[case]["shapes"].items()}


def network_of(layout, weights):
    return build_model(layout.model, **layout.sizes(weights))


def test_every_layout_of_another_toolkit_has_a_case():
    foreign = {name for name, layout in LAYOUTS.items() if layout.renames}
    assert {KEYS[case]["layout"] for case in CASES} == foreign


@pytest.mark.parametrize("case", CASES)
def test_every_weight_of_the_original_has_one_place_in_the_network(case):
    layout, theirs = LAYOUTS[KEYS[case]["layout"]], empty(case)
    names = [layout.name(name) for name in theirs]
    assert None not in names
    assert len(set(names)) == len(names)
    ours = layout.translated(theirs)
    assert sum(tensor.numel() for tensor in ours.values()) == sum(t.numel() for t in theirs.values())


@pytest.mark.parametrize("case", CASES)
def test_every_place_in_the_network_is_filled_and_the_shapes_fit(case):
    layout = LAYOUTS[KEYS[case]["layout"]]
    ours = layout.translated(empty(case))
    with torch.device("meta"):
        wanted = network_of(layout, ours).state_dict()
    assert ours.keys() == wanted.keys()
    shapes = {name: (tuple(ours[name].shape), tuple(wanted[name].shape)) for name in wanted}
    assert {name: pair for name, pair in shapes.items() if pair[0] not in (pair[1], (*pair[1], 1))} == {}


@pytest.mark.parametrize("case", CASES)
def test_the_network_gives_the_embeddings_of_the_original(case):
    layout = LAYOUTS[KEYS[case]["layout"]]
    ours = layout.translated(filled(case))
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


@pytest.mark.parametrize("case", CASES)
def test_no_checkpoint_of_a_case_is_taken_for_a_relative(case):
    assert LAYOUTS[KEYS[case]["layout"]].variant(empty(case)) == ""


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_fits_no_layout_but_its_own(case):
    """CAM++ has the same names in WeSpeaker as in 3D-Speaker."""
    own = KEYS[case]["layout"]
    fitting = {name for name, layout in LAYOUTS.items() if layout.sizes(layout.translated(empty(case)))}
    assert fitting == ({own} if "campplus" not in own else {"3dspeaker-campplus", "wespeaker-campplus"})


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
    assert LAYOUTS["3dspeaker-campplus"].frontend_config(80) == FrontEndConfig(sample_scale=1.0)
    for name in ("wespeaker-campplus", "wespeaker-resnet34", "wespeaker-ecapa"):
        assert LAYOUTS[name].frontend_config(80) == hamming
    assert LAYOUTS["speechbrain-ecapa"].frontend_config(60) == FrontEndConfig(
        kind="speechbrain-fbank", num_mels=60
    )
    assert LAYOUTS["ffsvc-ecapa"].frontend_config(80) == FrontEndConfig(kind="ffsvc-mel")
