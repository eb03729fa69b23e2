"""What a fine-tuning brings across a room: the far-field test before and after it, with the same back-ends.

    python benchmarks/farfield/gain.py LISTS COHORT OUT BEFORE AFTER [AFTER ...]

LISTS is the folder that lists.py wrote, COHORT a data dir of other speakers (for centring and for score
normalisation), OUT a folder for embeddings and scores, BEFORE a MODEL, and every AFTER a MODEL of the same
recipe with another seed. Extraction and scoring are the verbs of farvox. For each list and back-end one row:
EER and minDCF before, their means after over the seeds (and the range of the EER), the change, and the
95 % interval of the difference of the EERs, both sides on the same 1,000 draws of the speakers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from farvox.cli.main import main as farvox
from farvox.metrics.bootstrap import difference, mean_of_seeds, speaker_bootstrap
from farvox.metrics.detection import detection_error
from farvox.score.scores import read_scores
from farvox.score.trials import TrialList, read_trials

LISTS = ("near", "far-a", "far-b")
BACK_ENDS = {"cosine": [], "centred": ["--centre"], "as-norm": ["--cohort"], "both": ["--centre", "--cohort"]}
TOP = "100"


def main(lists: str, cohort: str, out: str, before: str, *after: str) -> None:
    """Embed, score, compare."""
    models = {name: Path(out) / name.strip("./").replace("/", "-") for name in (before, *after)}
    present = [name for name in LISTS if Path(lists, name).is_dir()]
    for model, folder in models.items():
        for data in (Path(cohort), *(Path(lists, name) for name in ("enrol", *present))):
            if not (folder / data.name / "meta.json").exists():
                verb("extract", model, data, folder / data.name)
    print("| list | back-end | EER before, % | after (range) | change | 95 % interval of the difference |"
          " minDCF before | after | change |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name in present:
        trials = read_trials(Path(lists, f"{name}.trials"))
        for back_end, options in BACK_ENDS.items():
            scores = [
                scored(trials, folder, name, back_end, options, Path(cohort).name)
                for folder in models.values()
            ]
            print(row(name, back_end, trials, scores))


def scored(
    trials: TrialList, folder: Path, name: str, back_end: str, options: list[str], cohort: str
) -> np.ndarray:
    """The scores of one model on one list with one back-end."""
    path = folder / f"{name}-{back_end}.scores"
    words = [word for option in options for word in (option, folder / cohort)]
    words += ["--norm", "as-norm", "--top", TOP] if "--cohort" in options else []
    verb("score", trials.path, folder / "enrol", folder / name, "--out", path, *words)
    return read_scores(path, trials)


def row(name: str, back_end: str, trials: TrialList, scores: list[np.ndarray]) -> str:
    """A line of the table; the first scores are those before."""
    figures = [detection_error(each, trials.target) for each in scores]
    eer, cost = np.array([[f.eer for f in figures], [f.min_dcf for f in figures]])
    speakers = [[trials.ids[int(code)].split("-")[0] for code in side] for side in sides(trials)]
    before, *after = (each["eer"] for each in speaker_bootstrap(scores, trials.target, *speakers).systems)
    low, high = difference(mean_of_seeds(after, seed=0), before).interval
    return (
        f"| {name} | {back_end} | {100 * eer[0]:.3f} | {100 * eer[1:].mean():.3f}"
        f" ({100 * eer[1:].min():.3f} to {100 * eer[1:].max():.3f}) | {change(eer)}"
        f" | {100 * low:+.3f} to {100 * high:+.3f}"
        f" | {cost[0]:.3f} | {cost[1:].mean():.3f} | {change(cost)} |"
    )


def sides(trials: TrialList) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of every trial, as numbers of ids."""
    return trials.enrol_code, trials.test_code


def change(values: np.ndarray) -> str:
    """The mean after against the value before, in per cent."""
    return f"{100 * (values[1:].mean() / values[0] - 1):+.0f} %"


def verb(*words: object) -> None:
    """A verb of farvox, which has said what was wrong if it fails."""
    if farvox([str(word) for word in words]):
        sys.exit(f"farvox {words[0]} failed")


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
