"""The features, one core: how many seconds of audio a second.

Ours against the way that most toolkits write it, and torchaudio's ``kaldi.fbank`` does: strided frames, mean
removed, pre-emphasised, windowed and padded by one operation each over all frames, |rfft| ** 2, a product
with all filters, a logarithm. torchaudio itself does not load beside a CPU torch. Wherever kaldi-native-fbank
is installed, 99.99 % of our values must besides be within 1e-3 of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from _bench import Bench, at_least

from farvox.audio.files import read_audio
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig

SECONDS = 2.015  # 200 frames


def usual_fbank(wav_T: torch.Tensor, window_N: torch.Tensor, mel_KM: torch.Tensor) -> torch.Tensor:
    """Kaldi's filterbank as toolkits write it."""
    frames_FN = (wav_T * 32768).as_strided((1 + (len(wav_T) - 400) // 160, 400), (160, 1))
    frames_FN = frames_FN - frames_FN.mean(dim=1, keepdim=True)
    before_FN = torch.nn.functional.pad(frames_FN[None], (1, 0), mode="replicate")[0, :, :-1]
    frames_FN = (frames_FN - 0.97 * before_FN) * window_N
    frames_FN = torch.nn.functional.pad(frames_FN, (0, 112))
    power_FK = torch.fft.rfft(frames_FN).abs().pow(2)
    return torch.mm(power_FK, mel_KM).clamp_min(torch.finfo(torch.float32).eps).log()


def chunks(folder: Path | None, count: int) -> torch.Tensor:
    """wav_BT: 16-bit samples, of recordings spread over a folder, or noise."""
    length = int(SECONDS * 16000)
    if folder is None:
        wav_BT = 0.1 * np.random.default_rng(0).standard_normal((count, length))
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac"))
        chosen = paths[:: max(1, len(paths) // count)][:count]
        wav_BT = np.stack([np.resize(read_audio(path), length) for path in chosen])
    return torch.from_numpy(np.rint(wav_BT * 32768).astype(np.float32) / 32768)


def gaps_to_kaldi(wav_BT: torch.Tensor, feats_BFM: torch.Tensor) -> np.ndarray | None:
    """Differences from kaldi-native-fbank, or None where it is not installed."""
    try:
        import kaldi_native_fbank as knf
    except ImportError:
        return None
    options = knf.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0, 80
    theirs = []
    for wav_T in wav_BT.numpy():
        fbank = knf.OnlineFbank(options)
        fbank.accept_waveform(16000, (wav_T * np.float32(32768)).tolist())
        fbank.input_finished()
        theirs.append([fbank.get_frame(n) for n in range(fbank.num_frames_ready)])
    return np.abs(np.array(theirs) - feats_BFM.numpy())


def main() -> None:
    bench = Bench(__doc__, repeats=9)
    bench.parser.add_argument("--recordings", type=Path, help="a folder of 16 kHz wav or flac files")
    options = bench.parse()
    torch.set_num_threads(1)
    count = 8 if options.quick else 64
    frontend = build_frontend(FrontEndConfig(mean="none"))
    window_N, mel_KM = frontend.window_N, frontend.mel_LM[::2].contiguous()
    for what, folder in (("noise", None), ("recordings", options.recordings)):
        if what == "recordings" and folder is None:
            continue
        wav_BT = chunks(folder, count)
        gaps = gaps_to_kaldi(wav_BT, frontend(wav_BT))
        assert gaps is None or np.mean(gaps < 1e-3) >= 0.9999, f"{np.mean(gaps >= 1e-3):.1e} are off"
        frames_FN = torch.randn(200, 512)

        def floor(frames_FN: torch.Tensor = frames_FN) -> None:
            for _ in range(count):
                torch.fft.rfft(frames_FN)

        floor()
        lowest = min(bench.seconds(floor) for _ in range(9))
        for batch, name in ((count, f"a batch of {count}"), (1, "one utterance at a time")):
            bench.compare(
                f"80-dim Kaldi fbank of {what}, {name}",
                ours=lambda wav_BT=wav_BT, batch=batch: [frontend(part) for part in wav_BT.split(batch)],
                reference=lambda wav_BT=wav_BT: [usual_fbank(wav_T, window_N, mel_KM) for wav_T in wav_BT],
                count=count * SECONDS, unit="x real time",
                target=at_least(5000), published=2780,
                reference_is="strided frames, |rfft| ** 2, one product",
                floor=count * SECONDS / lowest, floor_is="the FFT alone",
                note="" if gaps is None else f"within {gaps.max():.0e} of kaldi-native-fbank",
            )  # fmt: skip
    bench.finish()


if __name__ == "__main__":
    main()
