"""Every network of the registry taken the same way: trained, extracted, fine-tuned, verified with.

Exporting each of them is in tests/test_export.py, importing what others publish in tests/zoo/test_foreign.py.
"""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import tomli_w

from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.models.options import MODELS

NEEDS_SSL = pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra ssl")
NETWORKS = [pytest.param(name, marks=NEEDS_SSL) if name == "wavlm-ecapa" else name for name in MODELS]
TINY_WAVLM = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2]},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 1},
}
SMALL = {
    "resnet34": {"channels": 16, "blocks": [1, 1, 1, 1]},
    "ecapa": {"channels": 64, "bottleneck": 16},
    "xvector": {"channels": 16, "pooled_channels": 32},
    "campplus": {"front_channels": 16, "channels": 16, "blocks": [1, 1, 1], "growth": 16, "bottleneck": 32},
    "eres2netv2": {"channels": 16, "base_width": 64, "blocks": [1, 1, 1, 1]},
    "speechbrain-ecapa": {"channels": 64, "bottleneck": 16, "attention_channels": 16},
    "ffsvc-resnet34": {"channels": 16, "blocks": [1, 1, 1, 1]},
    "ffsvc-ecapa": {"channels": 128, "bottleneck": 16},
    "wavlm-ecapa": {"channels": 64, "bottleneck": 16, "wavlm": TINY_WAVLM},
}
FRONTENDS = {
    "campplus": {"sample_scale": 1.0},
    "eres2netv2": {"sample_scale": 1.0},
    "speechbrain-ecapa": {"kind": "speechbrain-fbank"},
    "ffsvc-resnet34": {"kind": "ffsvc-mel"},
    "ffsvc-ecapa": {"kind": "ffsvc-mel"},
    "wavlm-ecapa": {"kind": "waveform", "num_mels": 160},
}


def test_every_network_has_a_small_form_here():
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_extracted_fine_tuned_and_verified_with(
    name, tiny_recipe, corpus, voices, tmp_path, capsys
):
    recipe = tiny_recipe | {
        "features": {"num_mels": 24, **FRONTENDS.get(name, {})},
        "model": {"name": name, "embedding_dim": 16, **SMALL[name]},
    }
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe))
    run_dir = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "recipe.toml"), "--run-dir", run_dir]) == 0

    tuned = {key: value for key, value in recipe.items() if key not in ("features", "model")}
    tuned |= {"init": {"model": run_dir, "classifier": "keep"}}
    (tmp_path / "tune.toml").write_text(tomli_w.dumps(tuned))
    assert main(["train", str(tmp_path / "tune.toml"), "--run-dir", str(tmp_path / "tuned")]) == 0

    for model in (run_dir, str(tmp_path / "tuned")):
        assert main(["extract", model, str(corpus / "dev"), str(tmp_path / "emb"), "--device", "cpu"]) == 0
        embeddings = EmbeddingSet.load(tmp_path / "emb")
        assert embeddings.embeddings.shape == (9, 16) and np.isfinite(embeddings.embeddings).all()
        assert embeddings.meta["model"]["name"] == name

    capsys.readouterr()
    files = [str(voices / "a0.wav"), str(voices / "a1.wav")]
    assert main(["verify", *files, "--model", run_dir, "--threshold=-1", "--json", "--vad", "off"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == name
