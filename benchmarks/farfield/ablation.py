"""The ingredients of the far-field fine-tuning, left out one at a time: three seeds each, 200 steps.

    python benchmarks/farfield/ablation.py CORPORA OUT

Trained and judged on the split that settings are chosen on (the recipe `farfield/tune`); each is compared
with the whole, both with all their seeds, under plain cosine: the table of docs/farfield.md. What OUT holds
already is not done again. Twelve trainings take an hour and a half of processor time with bf16.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

from folds import extract, farvox

from farvox.pipelines.finish import FinishOptions, finish

START = "campplus-zh-en"
SEEDS = range(1, 4)
LISTS = ("near", "measured", "short-1")
WHOLE = "whole"
BEFORE = {"--data.epoch_size": 1600, "--agree.weight": 0, "--distill.weight": 2}
"""Settings of the recipe when these trainings were compared: 200 steps, no pairs, and a teacher."""
TRAINED: dict[str, dict[str, object]] = {
    WHOLE: {},
    "rooms": {"--augment.rir_drr": "[-60, 60]"},
    "colour": {"--augment.colour_db": 0},
    "teacher": {"--distill.weight": 0},
}
"""What is left out of the training, and the options that do."""
MEAN = "mean"
"""The mean of the weights of the seeds, each finished."""


def main(corpora: str, out: str) -> None:
    """Prepare, train, finish, extract, score, compare."""
    root = Path(out)
    lists, data = root / "data/across-tune", root / "data/farfield-tune"
    finished = {
        "start": FinishOptions(centre=data / "centre"),
        "centre": FinishOptions(start=0.5),
        "both": FinishOptions(),
    }
    """What is left out of the finish of the whole."""
    judged = root / "data/judged"
    for seed in SEEDS:
        for name, options in TRAINED.items():
            run = root / f"exp/{name}-{seed}"
            if not (run / "train/finished").exists():
                words = ("--paths.lists", lists, "--paths.data", data, "--paths.corpora", corpora)
                words += ("--run-dir", run, "--to", "train", "--seed", seed)
                farvox("run", "farfield/tune", *words, *chain(*(BEFORE | options).items()))
            if not judged.exists():
                where = f"list=enrol,{','.join(LISTS)}"
                farvox("subset", lists / "fold-1", judged, "--where", where)
            extract(run / "train/finished", judged, root / f"emb/{name}-{seed}")
        for name, options in finished.items():
            model, train = root / f"exp/{name}-{seed}", root / f"exp/{WHOLE}-{seed}/train"
            if options.is_any:
                finish(train, START, options, model, device="cpu")
            extract(model if options.is_any else train, judged, root / f"emb/{name}-{seed}")
    if not (root / "exp" / MEAN).exists():
        models = [root / f"exp/{WHOLE}-{seed}/train/finished" for seed in SEEDS]
        farvox("average", root / "exp" / MEAN, *models)
    extract(root / "exp" / MEAN, judged, root / f"emb/{MEAN}")
    extract(START, judged, root / "emb/as-it-came")
    systems = {name: [f"{name}-{seed}" for seed in SEEDS] for name in (*TRAINED, *finished)}
    systems |= {name: [name] for name in (MEAN, "as-it-came")}
    for trials in LISTS:
        compare(root, lists, trials, systems)


def compare(root: Path, lists: Path, trials: str, systems: dict[str, list[str]]) -> None:
    """Print the figures of each system on a list, with the difference from the whole."""
    folder, file = root / "scores" / trials, lists / f"{trials}.trials"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (each for seeds in systems.values() for each in seeds):
        if not (folder / name).exists():
            farvox("score", file, root / "emb" / name, "--out", folder / name)
    shown = [f"{name}={','.join(str(folder / each) for each in seeds)}" for name, seeds in systems.items()]
    print(f"\n== {trials}")
    for system in shown[1:]:
        print(farvox("evaluate", file, system, shown[0], "--intervals", "--data", root / "data/judged"))


if __name__ == "__main__":
    main(*sys.argv[1:])
