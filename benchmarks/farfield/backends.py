"""Back-ends across a room: the figures that each of them has on speakers it was not fitted on.

    python benchmarks/farfield/backends.py CORPORA OUT [UTTERANCES]

Of speechocean762 UTTERANCES (10 unless given) of each speaker are drawn: as recorded, and a far copy of each
as `farvox simulate` makes it by default, with the noise of ESC-10. Speakers 1-50 are what centring, cohorts
and PLDA learn from; calibrations and thresholds (a FAR of 1 %) are fitted on 51-75; 101-125 are reported on.
Trials are all pairs of the near recordings, and every near recording against every far copy of another one.

Two tables are printed, as docs/evaluation.md has them: the figures with their 95 % intervals, and the
differences from the calibrated cosine with their p. All is done by the verbs of farvox, and what OUT holds
already is not done again. Only FAR and FRR are resampled here, since each system has a threshold of its own
and `farvox evaluate` has one for all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from farvox.metrics.bootstrap import Sample, difference, rates_at, speaker_bootstrap
from farvox.metrics.detection import detection_error
from farvox.pipelines.score import Scores
from farvox.report.text import as_markdown, p_value, rounded, span
from farvox.score.lists import speakers_from_dirs

MODEL = "campplus-zh-en"
PARTS = {"learn": "1-50", "fit": "51-75", "report": "101-125"}
FITTED = ("fit", "report")  # the parts that are scored
FAR = 0.01
BACK_ENDS = {
    "cosine": [],
    "centred": ["--centre", "LEARN"],
    "s-norm": ["--norm", "s-norm", "--cohort", "LEARN"],
    "AS-norm": ["--norm", "as-norm", "--cohort", "LEARN", "--top", "100"],
    "AS-norm, by condition": [
        *("--norm", "as-norm", "--cohort", "LEARN", "--top", "100"),
        *("--cohort-by", "place", "--conditions", "PLACES"),
    ],
    "AS-norm, centred": ["--norm", "as-norm", "--cohort", "LEARN", "--top", "100", "--centre", "LEARN"],
    "PLDA": ["--plda", "LEARN"],
    "PLDA, LDA to 40": ["--plda", "LEARN", "--lda", "40"],
}
FILES = {"LEARN": "learn/embeddings", "PLACES": "places/utt2cond"}
FUSED = ("cosine", "AS-norm, centred", "PLDA, LDA to 40")
DIGITS = 500  # trials whose digits are shown: the intervals are too wide for more
REFERENCE = "cosine"  # all are calibrated; the row of raw scores is not
RAW = "cosine, not calibrated"
COLUMNS = {"eer": ("EER", "%"), "min_dcf": ("minDCF", ""), "act_dcf": ("actDCF", ""), "cllr": ("Cllr", "")}
RATES = {"far": ("FAR", "%"), "frr": ("FRR", "%")}


def main(corpora: str, out: str, utterances: str = "10") -> None:
    """Prepare, score, calibrate, compare."""
    folder = Path(out)
    prepare(Path(corpora), folder, int(utterances))
    for name, options in BACK_ENDS.items():
        for part in FITTED:
            trials, embeddings = folder / part / "trials", folder / part / "embeddings"
            words = [folder / FILES[word] if word in FILES else word for word in options]
            made(scores_of(folder, part, name), "score", trials, embeddings, *words, "--out")
    for part in FITTED:  # what is fitted on one is applied to both
        cosine = scores_of(folder, part, "cosine")
        fit_and_apply(folder, part, "quality-aware", "calibrate", [cosine], ["--quality"])
        named = [f"{name}={scores_of(folder, part, name)}" for name in FUSED]
        fit_and_apply(folder, part, "fused", "fuse", named)
    names = [*BACK_ENDS, "quality-aware", "fused"]
    thresholds = {name: calibrate(folder, name) for name in names}
    for rows in tables(folder, names, thresholds):
        print(f"\n{as_markdown(rows)}")


def farvox(*words: object) -> str:
    """What a verb of farvox prints, which has said what was wrong if it fails."""
    command = [sys.executable, "-m", "farvox", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"farvox {words[0]} failed")
    return done.stdout


def made(path: Path, *words: object) -> None:
    """A file that a verb writes, whose last word is the option that takes its name; once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        farvox(*words, path)


def scores_of(folder: Path, part: str, name: str) -> Path:
    """The score file of a system on a part; as part "llrs" its log-likelihood ratios on those reported on."""
    return folder / part / "scores" / name.replace(", ", "-").replace(" ", "-")


def prepare(corpora: Path, out: Path, utterances: int) -> None:
    """The data dirs, trials and embeddings of each part, and which recordings are near."""
    places: list[str] = []
    for seed, (part, speakers) in enumerate(PARTS.items()):
        folder = out / part
        near, far, both = (folder / name for name in ("near", "far", "both"))
        chosen = ("--speakers", speakers, "--per-speaker", utterances)
        if not (folder / "embeddings/meta.json").exists():
            farvox("prepare", "speechocean762", corpora / "speechocean762", out / "so762")
            farvox("subset", out / "so762/train", near, *chosen)
            farvox("simulate", near, far, "--noise", corpora / "noise_esc10", "--seed", seed, "--jobs", 1)
            farvox("combine", both, near, far)
            farvox("extract", MODEL, both, folder / "embeddings", "--quality", "--threads", 1)
        made(folder / "near.trials", "trials", near)
        made(folder / "far.trials", "trials", both, "--enrol", "?" * 9, "--test", "?" * 9 + "_*")
        lists = [(folder / f"{place}.trials").read_text() for place in ("near", "far")]
        (folder / "trials").write_text("".join(lists))
        utt_ids = [line.split()[0] for line in (both / "utt2spk").read_text().splitlines()]
        places += [f"{utt_id}\t{'far' if '_' in utt_id else 'near'}\n" for utt_id in utt_ids]
    (out / FILES["PLACES"]).parent.mkdir(exist_ok=True)
    (out / FILES["PLACES"]).write_text("".join(["utt_id\tplace\n", *sorted(places)]))


def fit_and_apply(
    folder: Path, part: str, name: str, verb: str, scores: Sequence[object], options: Sequence[str] = ()
) -> None:
    """The log-likelihood ratios of a part by a fit on speakers 51-75, which is part "fit" and comes first."""
    fit, trials = folder / f"{name}.json", folder / part / "trials"
    if part == "fit":
        made(fit, verb, trials, *scores, *options, "--save")
    made(scores_of(folder, part, name), verb, trials, *scores, "--apply", fit, "--out")


def calibrate(folder: Path, name: str) -> float:
    """The threshold of a system; its log-likelihood ratios on the trials reported on are written."""
    scores = {part: scores_of(folder, part, name) for part in FITTED}
    fit = scores["fit"].with_suffix(".json")
    made(fit, "calibrate", folder / "fit/trials", scores["fit"], "--far", FAR, "--save")
    out = scores_of(folder, "llrs", name)
    made(out, "calibrate", folder / "report/trials", scores["report"], "--apply", fit, "--out")
    return float(json.loads(fit.read_text())["threshold"]["threshold"])


def tables(folder: Path, names: list[str], thresholds: dict[str, float]) -> tuple[list[list[str]], ...]:
    """The rows of both tables."""
    trials, data = folder / "report/trials", folder / "report/both"
    systems = {RAW: scores_of(folder, "report", REFERENCE)} | {
        name: scores_of(folder, "llrs", name) for name in names
    }
    words = [f"{name}={path}" for name, path in systems.items()]
    found = json.loads(farvox("evaluate", trials, *words, "--llr", "--intervals", "--data", data, "--json"))
    compared = {(pair["system"], pair["other"]): pair for pair in found["differences"]}
    rates = rates_there(folder, names, thresholds)
    rates[RAW] = rates[REFERENCE]
    costs, at = [head for head, _ in COLUMNS.values()], [head for head, _ in RATES.values()]
    first = [["system", *costs, *(f"{head} at its threshold" for head in at), "EER near", "EER far"]]
    second = [["system", *costs, *at]]
    for table in found["systems"]:
        name = table["system"]
        row = [
            with_interval(figure(table, key), table["intervals"][key], unit)
            for key, (_, unit) in COLUMNS.items()
        ]
        for key, (_, unit) in RATES.items():
            drawn = rates[name][key]
            row.append(with_interval(drawn.value, drawn.interval(), unit))
        first.append([name, *row, *places(trials, systems[name])])
        if name == REFERENCE:
            continue
        pair, sign = compared.get((name, REFERENCE)), 1
        if pair is None:
            pair, sign = compared[REFERENCE, name], -1
        row = [
            changed(sign * pair[key]["difference"], pair[key]["p"], unit)
            for key, (_, unit) in COLUMNS.items()
        ]
        for key, (_, unit) in RATES.items():
            change = difference(rates[name][key], rates[REFERENCE][key])
            row.append("the same" if name == RAW else changed(change.value, change.p, unit))
        second.append([name, *row])
    return first, second


def figure(table: dict, key: str) -> float:
    """A figure of a system; actDCF is in the table of its operating point."""
    return table["dcf"][0]["act_dcf"] if key == "act_dcf" else table[key]


def changed(value: float, p: float, unit: str) -> str:
    """A difference and its p, in bold where the interval excludes zero."""
    text = f"{rounded(value, DIGITS, 'points' if unit else '', sign='+')} (p {p_value(p)})"
    return f"**{text}**" if p < 0.05 else text


def with_interval(value: float, interval: tuple[float, float], unit: str) -> str:
    """A figure, and its interval in brackets."""
    return f"{rounded(value, DIGITS, unit)} ({span(interval, DIGITS, unit)})"


def rates_there(folder: Path, names: list[str], thresholds: dict[str, float]) -> dict[str, dict[str, Sample]]:
    """FAR and FRR of each system at its threshold, on the same resamples of the speakers."""
    trials = folder / "report/trials"
    scores = [Scores.read(trials, scores_of(folder, "report", name)) for name in names]
    speakers = speakers_from_dirs(scores[0].trials, [folder / "report/both"])
    margins = [each.values - thresholds[name] for name, each in zip(names, scores, strict=True)]
    resampled = speaker_bootstrap(
        margins,
        scores[0].trials.target,
        speakers.enrol,
        speakers.test,
        figures=[partial(rates_at, threshold=0.0)],
    )
    return dict(zip(names, resampled.systems, strict=True))


def places(trials: Path, path: Path) -> list[str]:
    """The EER of the near tests, and that of the far ones."""
    scores, found = Scores.read(trials, path), []
    near = len(trials.with_name("near.trials").read_text().splitlines())
    for part in (slice(None, near), slice(near, None)):
        target = scores.trials.target[part]
        found.append(rounded(detection_error(scores.values[part], target).eer, DIGITS, "%"))
    return found


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
