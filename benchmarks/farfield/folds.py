"""The larger far-field test: five folds of 25 speakers, each judged by CAM++ fine-tuned on the other hundred.

    python benchmarks/farfield/folds.py CORPORA OUT

It prepares the test (`farvox prepare across`), trains the five models (`farvox run farfield/fold`), and
compares each list, the folds together, with the model as it came, under plain cosine, and with AS-norm, whose
cohort is what the centre is the mean of: the tables of docs/farfield.md. What OUT holds already is not done
again. Five trainings take an hour of processor time with bf16. With FARVOX_FOLDS=1,3 only those are trained,
and the tables wait for the others.
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
        for system, of in (("after", model), ("before", START)):
            extract(of, test / f"fold-{fold}", embeddings(root, system, "test", fold))
            extract(of, test / "fold-an4", embeddings(root, system, "an4", fold))
        extract(model, root / f"data/centre-{fold}", embeddings(root, "after", "cohort", fold))
    if all(embeddings(root, "after", "cohort", fold).exists() for fold in FOLDS):
        for name, conditions in LISTS.items():
            compare(root, test, name, conditions)


def compare(root: Path, test: Path, name: str, conditions: tuple[str, ...]) -> None:
    """Print the figures of a list before and after, and by conditions; AN4 is judged by all five models."""
    trials, folder = test / f"{name}.trials", root / "scores"
    folder.mkdir(exist_ok=True)
    part, data = ("an4", ["fold-an4"]) if name.startswith("an4") else ("test", [f"fold-{k}" for k in FOLDS])
    systems = []
    for system, norm in (("after", ""), ("before", ""), ("after", "as-norm")):
        label, scores = f"{system} {norm}".strip(), []
        for fold in FOLDS:  # each fold by its own model: no two models are in one trial
            own = trials if part == "an4" else test / f"fold-{fold}/{name}.trials"
            scores.append(folder / f"{name}-{label}-{fold}")
            words = ("--norm", norm, "--cohort", embeddings(root, system, "cohort", fold)) if norm else ()
            farvox("score", own, embeddings(root, system, part, fold), "--out", scores[-1], *words)
        if part == "test":
            whole = folder / f"{name}-{label}"
            whole.write_text("".join(each.read_text() for each in scores))
            scores = [whole]
        systems.append(f"{label}={','.join(map(str, scores))}")
    words = ("evaluate", trials, *systems, "--data", *(test / each for each in data))
    print(f"\n== {name}\n{farvox(*words, '--intervals')}")
    for condition in conditions:
        print(f"\n== {name} by {condition}\n{farvox(*words, '--by', condition)}")


def embeddings(root: Path, system: str, part: str, fold: int) -> Path:
    """The folder of embeddings; the model as it came is the same for all folds."""
    is_shared = (system, part) == ("before", "an4")
    return root / (f"{system}-{part}" if is_shared else f"fold-{fold}/{system}-{part}")


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
