"""The larger far-field test: five folds of 25 speakers, each judged by CAM++ fine-tuned on the other hundred.

    python benchmarks/farfield/folds.py CORPORA OUT

It prepares the test (`farvox prepare across`), trains the five models (`farvox run farfield/fold`), and
compares each list, the folds together, with the model as it came, under plain cosine: the table of
docs/farfield.md. What OUT holds already is not done again. Five trainings take an hour of processor time with
bf16. With FARVOX_FOLDS=1,3 only those are trained, and the table waits for the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

START = "campplus-zh-en"
FOLDS = range(1, 6)
LISTS = {
    "near": (),
    "measured": ("room", "snr", "age"),
    "simulated": ("distance", "snr"),
    "short-1": (),
    "short-2": (),
    "far-enrol": (),
    "an4-near": (),
    "an4-measured": (),
    "an4-short-1": (),
}


def main(corpora: str, out: str) -> None:
    """Prepare, train, extract, score, compare."""
    root = Path(out)
    test = root / "across"
    if not (test / "an4-measured.trials").exists():
        farvox("prepare", "across", corpora, test)
    wanted = [int(fold) for fold in os.environ.get("FARVOX_FOLDS", "1,2,3,4,5").split(",")]
    for fold in wanted:
        paths = ("--paths.fold", fold, "--paths.lists", test, "--paths.data", root / "data")
        farvox("run", "farfield/fold", *paths, "--run-dir", root / f"fold-{fold}", "--to", "train")
        model = root / f"fold-{fold}/train/finished"
        extract(model, test / f"fold-{fold}", root / f"fold-{fold}/after")
        extract(model, test / "fold-an4", root / f"fold-{fold}/an4")
        extract(START, test / f"fold-{fold}", root / f"fold-{fold}/before")
    extract(START, test / "fold-an4", root / "an4")
    if all((root / f"fold-{fold}/an4").exists() for fold in FOLDS):
        for name, conditions in LISTS.items():
            compare(root, test, name, conditions)


def compare(root: Path, test: Path, name: str, conditions: tuple[str, ...]) -> None:
    """Print the figures of a list before and after, and by conditions; AN4 is judged by all five models."""
    trials, folder = test / f"{name}.trials", root / "scores"
    folder.mkdir(exist_ok=True)
    after, before = folder / f"{name}.after", folder / f"{name}.before"
    if name.startswith("an4"):
        scores = [f"{after}-{fold}" for fold in FOLDS]
        for fold, out in zip(FOLDS, scores, strict=True):
            farvox("score", trials, root / f"fold-{fold}/an4", "--out", out)
        farvox("score", trials, root / "an4", "--out", before)
        systems, data = [f"after={','.join(scores)}", f"before={before}"], [test / "fold-an4"]
    else:  # each fold by its own model: no two models are in one trial
        for out in (after, before):
            parts = [folder / f"fold-{fold}-{out.name}" for fold in FOLDS]
            for fold, part in zip(FOLDS, parts, strict=True):
                embeddings = root / f"fold-{fold}" / out.suffix[1:]
                farvox("score", test / f"fold-{fold}/{name}.trials", embeddings, "--out", part)
            out.write_text("".join(part.read_text() for part in parts))
        systems, data = [f"after={after}", f"before={before}"], [test / f"fold-{fold}" for fold in FOLDS]
    words = ("evaluate", trials, *systems, "--data", *data)
    print(f"\n== {name}\n{farvox(*words, '--intervals')}")
    for condition in conditions:
        print(f"\n== {name} by {condition}\n{farvox(*words, '--by', condition)}")


def extract(model: str | Path, data: Path, out: Path) -> None:
    """Embeddings, unless they are there."""
    if not out.exists():
        farvox("extract", model, data, out)


def farvox(*words: object) -> str:
    """The output of a verb of farvox, which has said what was wrong if it fails."""
    command = [sys.executable, "-m", "farvox", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])}: failed")
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
