"""Embeddings of files, audio reading included, against the loop that the peers run.

The reference embeds one file after the other by eager torch in fp32, each on all cores, as the scripts of
the FFSVC2022 baseline and of WeSpeaker do: read, features, network. The ResNet34 has random weights; CAM++
those of campplus-zh-en, where they are in the cache. Ours are what ``farvox extract`` runs, reading ahead, an
utterance on each core. A CPU without bf16 has no rows of it. OpenVINO's need the extra ``openvino``; exports
take a minute and a half.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import torch
from _bench import Bench, times

from farvox.audio.files import read_audio, write_audio
from farvox.features.frontend import FrontEndConfig
from farvox.machine import has_bf16
from farvox.models.registry import build_model
from farvox.zoo import Card, Embedder, Model, load_model, open_embedder, save_model
from farvox.zoo.embedder import embed_files
from farvox.zoo.export import export_onnx
from farvox.zoo.pretrained import is_pulled, zoo_model

RATE = 16000
CAMPPLUS = "campplus-zh-en"
RESNET_GFLOP = 22.7
"""Of one embedding of 5 s."""


def main() -> None:
    bench = Bench(__doc__)
    bench.parser.add_argument(
        "--files", type=int, default=24, help="of five seconds; others are as long in all"
    )
    options = bench.parse()
    count = 4 if options.quick else options.files
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpora = {
            "2 s": write_files(folder / "2", np.full(count * 5 // 2, 2.0)),
            "5 s": write_files(folder / "5", np.full(count, 5.0)),
            "1 to 12 s": write_files(folder / "mixed", lengths(5.0 * count)),
        }
        compare(bench, "ResNet34", random_resnet(folder / "resnet34"), corpora, folder, options.quick)
        if is_pulled(zoo_model(CAMPPLUS)):
            compare(bench, "CAM++", CAMPPLUS, corpora, folder, options.quick)
    bench.finish()


def compare(
    bench: Bench, name: str, spec: str | Path, corpora: dict[str, list[str]], folder: Path, quick: bool
) -> None:
    """Every way to run a model, on every corpus, in turn; all of them next to the reference."""
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if not has_bf16(torch.device("cpu")):
        del precisions["bf16"]
    model, most = load_model(spec), {name: peak(bench, dtype) for name, dtype in precisions.items()}
    ways: dict[str, Embedder] = {f"torch {name}": open_embedder(spec, precision=name) for name in precisions}
    if not quick:
        exported = folder / f"{name}.onnx"
        export_onnx(model, Card(), exported)
        ways["onnxruntime fp32"] = open_embedder(exported)
        if importlib.util.find_spec("openvino"):
            for precision in precisions:
                ways[f"openvino {precision}"] = open_embedder(
                    exported, backend="openvino", precision=precision
                )
    for which, files in corpora.items():
        seconds = sum(len(read_audio(path)) for path in files) / RATE
        expected = one_by_one(model, files)
        took: dict[str, list[float]] = {way: [] for way in ways}
        reference: dict[str, list[float]] = {way: [] for way in ways}
        for way, embedder in ways.items():
            check(name, way, embed_files(embedder, files, files), expected)
        for _ in range(bench.repeats):
            for way, embedder in ways.items():
                work = bench.seconds(
                    lambda embedder=embedder, files=files: embed_files(embedder, files, files)
                )
                other = bench.seconds(lambda files=files: one_by_one(model, files))
                took[way].append((len(files) if which == "5 s" else seconds) / work)
                reference[way].append((len(files) if which == "5 s" else seconds) / other)
        for way in ways:
            aimed = (name, way, which) == ("ResNet34", "openvino bf16", "5 s")
            bench.record(
                f"{name} by {way}, {which}",
                took[way],
                reference[way],
                unit="utterances/s" if which == "5 s" else "x real time",
                reference_is="eager torch fp32, one file at a time",
                target=times(2.5) if aimed else None,
                published=11.7 if (name, which) == ("ResNet34", "5 s") else None,
                # Convolutions in fp32 beat products of matrices, so that these are no bound for them.
                floor=most["bf16"] / RESNET_GFLOP
                if (name, which, way[-4:]) == ("ResNet34", "5 s", "bf16")
                else None,
                floor_is=f"{RESNET_GFLOP} GFLOP at {most.get('bf16', 0):.0f} GFLOP/s",
            )


def one_by_one(model: Model, files: list[str]) -> np.ndarray:
    """The peers' loop."""
    model.network.eval()
    found = []
    for path in files:
        wav_T = read_audio(path)
        with torch.no_grad():
            found.append(model.network(model.frontend(torch.from_numpy(wav_T)[None]))[0].numpy())
    return np.stack(found)


def check(name: str, way: str, found_NE: np.ndarray, expected_NE: np.ndarray) -> None:
    """Ours are the reference's embeddings: to rounding in fp32, by their cosine in bf16."""
    cosine_N = (found_NE * expected_NE).sum(1) / (
        np.linalg.norm(found_NE, axis=1) * np.linalg.norm(expected_NE, axis=1)
    )
    gap = (np.abs(found_NE - expected_NE).max(1) / np.abs(expected_NE).max(1)).max()
    print(f"  {name} by {way}: differs by {gap:.1e} of the largest number; cosine {cosine_N.min():.6f}")
    assert gap < 1e-4 if way.endswith("fp32") else cosine_N.min() > 0.99


def peak(bench: Bench, dtype: torch.dtype) -> float:
    """GFLOP/s that the cores multiply at most: the best of a few square products."""
    a = torch.randn(2048, 2048).to(dtype)
    return 2 * 2048**3 / min(bench.seconds(lambda: a @ a) for _ in range(8)) / 1e9


def random_resnet(folder: Path) -> Path:
    torch.manual_seed(0)
    save_model(folder, build_model("ffsvc-resnet34"), FrontEndConfig(kind="ffsvc-mel"), "ffsvc-resnet34", {})
    return folder


def lengths(seconds: float) -> np.ndarray:
    """Of utterances, as many as last so long: a log-normal law between 1 and 12 s, median 4."""
    drawn = np.clip(np.random.default_rng(0).lognormal(np.log(4), 0.6, 10_000), 1, 12)
    return drawn[: np.searchsorted(np.cumsum(drawn), seconds) + 1]


def write_files(folder: Path, seconds_N: np.ndarray) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n, seconds in enumerate(seconds_N):
        write_audio(folder / f"{n:04}.wav", 0.1 * rng.standard_normal(int(seconds * RATE)))
    return sorted(map(str, folder.glob("*.wav")))


if __name__ == "__main__":
    main()
