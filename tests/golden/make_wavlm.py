"""Freeze Microsoft's WavLM in wavlm.json: of two kinds the names and shapes of the weights, and the output.

    python make_wavlm.py BASELINE_CHECKOUT

Origin: model/wavlm.py of the FFSVC2022 baseline, in float64 on the CPU. Every weight is filled by
`make_models.weight` of its name, so that the checkpoint can be made again without that code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

SIZES = {
    "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4,
    "conv_feature_layers": "[(24,10,5)] + [(24,3,2)] * 2 + [(24,2,2)]", "conv_pos": 16, "conv_pos_groups": 4,
    "relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 32, "max_distance": 80,
}  # fmt: skip
KINDS = {
    "base": {"extractor_mode": "default", "layer_norm_first": False, "normalize": False},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "normalize": True, "conv_bias": True},
}


def waveform() -> torch.Tensor:
    """Two seconds of two tones, [2, 3200]."""
    time_T = torch.arange(3200, dtype=torch.float64) / 16000
    return torch.stack([torch.sin(1400 * time_T), torch.sin(2600 * time_T) * time_T * 5])


if __name__ == "__main__":
    from make_models import weight

    sys.path.insert(0, sys.argv[1])
    from model.wavlm import WavLM, WavLMConfig

    frozen = {}
    for kind, settings in KINDS.items():
        config = SIZES | settings
        network = WavLM(WavLMConfig(config)).double().eval()
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        network.load_state_dict({name: weight(name, shape) for name, shape in shapes.items()})
        with torch.no_grad():
            output, _ = network.extract_features(waveform())
        frozen[kind] = {"cfg": config, "shapes": shapes, "output": output[:, ::7, ::5].tolist()}
    Path(__file__).with_name("wavlm.json").write_text(json.dumps(frozen) + "\n")
