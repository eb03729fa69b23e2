"""Golden features of the FFSVC2022 baseline: torchaudio 2.8.0's MelSpectrogram, the baseline's parameters.

Run once, beside torch 2.8.0 and torchaudio 2.8.0: ``python tests/golden/make_features.py``. It writes
``features.npz``: for each waveform below, log-mel FM before and after mean normalisation. The waveforms are
filled by formulas and not stored; the test fills them again.
"""

from pathlib import Path

import numpy as np


def waveforms() -> dict[str, np.ndarray]:
    """Name -> float32 samples at 16 kHz; noise in each keeps every filter above rounding errors."""
    chirps, noise = _chirps(100 * 160 - 160), _noise(100 * 160 - 160, seed=1)
    fade = np.linspace(1, 0.05, 6477, dtype=np.float32)
    return {
        "chirps": chirps + 0.2 * noise,
        "noise": 0.3 * noise[:7840],
        "faint_off_centre": 0.02 + 0.01 * (chirps + noise)[:6477],
        "fading": (chirps + 0.3 * noise)[:6477] * fade,
        "shortest": (chirps + 0.1 * noise)[:400],
    }


def _chirps(num_samples: int) -> np.ndarray:
    """Three chirps that cross the band, with amplitudes 1/2, 1/4 and 1/8."""
    t = np.arange(num_samples) / 16000
    phases = (100 * t + 1500 * t**2, 6000 * t - 900 * t**2, 700 * t + 40 * np.sin(12 * t))
    wav_T = sum(0.5 ** (i + 1) * np.sin(2 * np.pi * phase) for i, phase in enumerate(phases))
    return np.asarray(wav_T, dtype=np.float32)


def _noise(num_samples: int, seed: int) -> np.ndarray:
    """Uniform in [-1, 1), from the generator x <- (1664525 x + 1013904223) mod 2^32."""
    state, values = seed, []
    for _ in range(num_samples):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(state / 2**31 - 1)
    return np.asarray(values, dtype=np.float32)


def main() -> None:
    """Compute the features and write them beside this file."""
    import torch
    import torchaudio

    if (torch.__version__[:3], torchaudio.__version__[:3]) != ("2.8", "2.8"):
        raise SystemExit("golden features are made with torch 2.8 and torchaudio 2.8")
    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=80
    )
    golden = {}
    for name, wav_T in waveforms().items():
        wav = torch.from_numpy(wav_T)
        wav = (wav - wav.mean()) / torch.clamp(wav.std(), min=1e-6)
        feats = torch.log(mel(wav) + 1e-6)
        golden[f"{name}.log_mel"] = feats.T.numpy()
        golden[f"{name}.normalised"] = (feats - feats.mean(dim=1, keepdim=True)).T.numpy()
    np.savez_compressed(Path(__file__).with_name("features.npz"), **golden)


if __name__ == "__main__":
    main()
