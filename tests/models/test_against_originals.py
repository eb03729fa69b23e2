"""The networks and heads against the modules they follow; see tests/golden/make_models.py for the origins."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from farvox.models.registry import build_head, build_model

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINALS = runpy.run_path(str(GOLDEN / "make_models.py"))
MODEL_CASES = json.loads((GOLDEN / "models.json").read_text())["cases"]
MARGIN_CASES = json.loads((GOLDEN / "margins.json").read_text())["cases"]


def names_of(cases):
    return [f"{case['model']}-{json.dumps(case['kwargs'])}" for case in cases]


def distance_from_original(case, network, dtype):
    """Largest deviation, relative to the largest number in an embedding."""
    distances = []
    for num_frames, expected in case["embeddings"].items():
        expected = torch.tensor(expected, dtype=torch.float64)
        with torch.no_grad():
            found = network(ORIGINALS["features"](2, int(num_frames), 80).to(dtype)).double()
        distances.append(float((found[:, :: case["every"]] - expected).abs().max() / expected.abs().max()))
    return max(distances)


@pytest.mark.parametrize("case", MODEL_CASES, ids=names_of(MODEL_CASES))
def test_a_network_gives_the_embeddings_of_the_original(case):
    network = ORIGINALS["fill"](build_model(case["model"], **case["kwargs"]).double())
    assert distance_from_original(case, network, torch.float64) < 1e-11
    assert distance_from_original(case, network.float(), torch.float32) < 1e-5


@pytest.mark.parametrize("case", MODEL_CASES[2:4], ids=names_of(MODEL_CASES[2:4]))
def test_the_unused_branch_of_the_baseline_has_no_part_in_its_embeddings(case):
    assert case["model"] == "ffsvc-ecapa"
    network = build_model("ffsvc-ecapa", **case["kwargs"], unused_branch=False)
    network = ORIGINALS["fill"](network.double())
    assert distance_from_original(case, network, torch.float64) < 1e-11


@pytest.mark.parametrize("case", MARGIN_CASES, ids=lambda case: f"{case['head']}-{case['margin']}")
def test_a_head_gives_the_logits_of_the_original(case):
    head = build_head(
        case["head"], 8, 5, margin=case["margin"], scale=case["scale"], **case["kwargs"]
    ).double()
    head.load_state_dict({"weight": ORIGINALS["formula"]("weight", (5, 8))})
    emb_BE, labels_B = ORIGINALS["embeddings_and_labels"]()
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    torch.testing.assert_close(head(emb_BE, labels_B), expected, rtol=0, atol=1e-10)
    found = head.float()(emb_BE.float(), labels_B).double()
    torch.testing.assert_close(found / case["scale"], expected / case["scale"], rtol=0, atol=1e-6)
