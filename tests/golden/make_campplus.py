"""Freeze what 3D-Speaker's own code gives for 20 real utterances: writes campplus.npz beside this file.

    python make_campplus.py 3D_SPEAKER_CHECKOUT TORCHAUDIO_FOLDER CHECKPOINT CORPORA

Origins: speakerlab/models/campplus/DTDNN.py of 3D-Speaker, with its published checkpoint
campplus_cn_en_common.pt (SHA-256 92f29b94...), and the features of speakerlab/process/processor.py, which
are torchaudio.compliance.kaldi.fbank (80 bins, dither 0) with the mean over time subtracted.
TORCHAUDIO_FOLDER is an unpacked wheel of torchaudio 2.8: its compliance/kaldi.py is loaded alone, for
torchaudio does not import beside a CPU torch. Samples are read by soundfile, as float32 in [-1, 1].
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import soundfile
import torch

HERE = Path(__file__).parent


def chosen(corpora: Path) -> list[str]:
    """Twenty utterances, spread over both corpora."""
    spoken = sorted((corpora / "speechocean762/WAVE").rglob("*.flac"))[::190][:13]
    spelled = sorted((corpora / "an4/wav").rglob("*.flac"))[::136][:7]
    return [path.relative_to(corpora).as_posix() for path in (*spoken, *spelled)]


def load_alone(path: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    checkout, torchaudio, checkpoint, corpora = map(Path, sys.argv[1:])
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    fbank = load_alone(torchaudio / "torchaudio/compliance/kaldi.py", "kaldi").fbank
    sys.path.insert(0, str(checkout))
    network = importlib.import_module("speakerlab.models.campplus.DTDNN").CAMPPlus(80, 192).eval()
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    paths, embeddings = chosen(corpora), []
    assert len(paths) == 20
    for path in paths:
        wav_T, rate = soundfile.read(corpora / path, dtype="float32")
        feats_FM = fbank(torch.from_numpy(wav_T)[None], num_mel_bins=80, sample_frequency=rate, dither=0)
        with torch.no_grad():
            embeddings.append(network((feats_FM - feats_FM.mean(0, keepdim=True))[None])[0].numpy())
    np.savez_compressed(HERE / "campplus.npz", paths=np.array(paths), embeddings=np.stack(embeddings))
