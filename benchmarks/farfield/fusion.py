"""Every way to fuse channels, on real speech in simulated rooms: chosen on some speakers, reported on others.

    python benchmarks/farfield/fusion.py CORPORA OUT [--model NAME] [--jobs N] [--tests N]

Of each speaker of speechocean762 the first 10 sorted utterances are close-talk enrolments and the last 10
are tests, all pairs, as of 'farvox prepare farfield'. Every test is heard in a shoebox room of its own
(T60 0.3 to 0.8 s, 1 to 5 m) with noise from one place there (5 to 20 dB), by

    4 channels      a circle of 5 cm radius: every fourth microphone of
    16 channels     HI-MIA's circle, of the same takes
    4 ad hoc        microphones anywhere in the room

A rule is chosen on speakers 76 to 100 and reported on 101 to 125, whose noise is other clips. 'One channel'
is microphone 00. All is done by the command line; what is there already is not done again. OUT/table.md and
OUT/figures.json hold what was found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from farvox.corpora.farfield import TEST_SPEAKERS, noise_dir, split_speakers
from farvox.corpora.speechocean762 import prepare_speechocean762
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir

CHOOSE_SPEAKERS = "76-100"
RULES = ("sum", "mean", "mean-norm", "score-mean", "best", "weighted", "expand")
WAVES = {
    "WPE": ["--wpe"],
    "delay-and-sum": ["--beamform", "delay-and-sum"],
    "MVDR": ["--beamform", "mvdr"],
    "WPE, delay-and-sum": ["--wpe", "--beamform", "delay-and-sum"],
    "WPE, MVDR": ["--wpe", "--beamform", "mvdr"],
}
ARRAYS = {
    "1 channel": ("array1", ["array4"]),
    "4 channels": ("array4", ["array4"]),
    "16 channels": ("array16", ["array4", "array16-rest"]),
    "4 ad hoc": ("adhoc4", ["adhoc4"]),
}  # its data dir and trials, and whose embeddings they need
GROUP = ["--group", r".*_1_(?P<channel>[0-9]+)"]
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="campplus-zh-en")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tests", type=int, default=10, help="how many of a speaker's 10 tests")
    options = parser.parse_args()
    both = (CHOOSE_SPEAKERS, TEST_SPEAKERS)
    for speakers in both:
        make_data(options.corpora, options.out / speakers, speakers, options.tests, options.jobs)
    figures = {each: measure(options.out / each, options.model, options.jobs) for each in both}
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1))
    (options.out / "table.md").write_text(table := as_table(figures[CHOOSE_SPEAKERS], figures[TEST_SPEAKERS]))
    print(table)


def make_data(corpora: Path, folder: Path, speakers: str, num_tests: int, jobs: int) -> None:
    """The takes, those of fewer channels, and lists of trials: of single channels and of all."""
    clips = slice(-4, None) if speakers == TEST_SPEAKERS else slice(-6, -4)
    corpus = prepare_speechocean762(corpora, folder / "speechocean762", note=lambda text: None)
    enrol, near = split_speakers(corpus[0], speakers)
    write_data_dir(folder / "enrol", enrol)
    write_data_dir(folder / "near", near)
    write_data_dir(folder / "noise", noise_dir(corpora / "noise_esc10", clips))
    for array, name in (("circular16", "array"), ("adhoc4", "adhoc")):
        farvox(
            "simulate", folder / "near", folder / name, "--array", array, "--noise", folder / "noise",
            "--seed", speakers.split("-")[0], "--jobs", jobs,
        )  # fmt: skip
    tests = [each for n, each in enumerate(near) if n % 10 < num_tests]
    for name, source, channels in (
        ("array1", "array", [0]),
        ("array4", "array", [0, 4, 8, 12]),
        ("array16", "array", range(16)),
        ("array16-rest", "array", [n for n in range(16) if n % 4]),
        ("adhoc4", "adhoc", range(4)),
    ):
        keep(folder / source, folder / name, tests, channels)
        write_trials(folder / f"{name}.trials", enrol, tests, "_1_{}")
        write_trials(folder / f"{name}-one.trials", enrol, tests, "_1_00")
    write_trials(folder / "near.trials", enrol, tests, "")


def keep(source: Path, target: Path, tests: list[Utterance], channels: Iterable[int]) -> None:
    """A data dir of some tests and channels of another."""
    wanted = {f"{test.utt_id}_1_{channel:02d}" for test in tests for channel in channels}
    write_data_dir(target, [each for each in DataDir.open(source).utterances() if each.utt_id in wanted])


def write_trials(path: Path, enrol: list[Utterance], test: list[Utterance], ending: str) -> None:
    path.write_text(
        "".join(
            f"{a.utt_id} {b.utt_id}{ending} {'target' if a.speaker_id == b.speaker_id else 'nontarget'}\n"
            for a in enrol
            for b in test
        )
    )


def measure(folder: Path, model: str, jobs: int) -> Figures:
    """Figures of every system, by array and rule."""
    for name in ("enrol", "near", "array4", "array16-rest", "adhoc4"):
        embed(model, folder, name)
    found: Figures = {"close talk": {"": score(folder, "near", ["near"])}}
    for array, (name, parts) in ARRAYS.items():
        found[array] = {"one channel": score(folder, f"{name}-one", parts)}
        alone = folder / f"{name}-one.scores"
        for rule in RULES if name != "array1" else ():
            found[array][rule] = score(folder, name, parts, rule=rule, against=alone)
        for wave, how in WAVES.items():
            if name == "adhoc4" or (name == "array1" and wave != "WPE"):
                continue  # devices have clocks of their own: no beamforming
            enhanced = f"{name}-{wave.replace(', ', '-').lower()}"
            farvox("enhance", folder / name, folder / enhanced, *how, *GROUP, "--jobs", jobs)
            embed(model, folder, enhanced)
            found[array][wave] = score(folder, name, [enhanced], rule="mean-norm", against=alone)
    return found


def embed(model: str, folder: Path, name: str) -> None:
    out = folder / f"emb-{name}"
    if not (out / "embeddings.npy").exists():
        farvox("extract", model, folder / name, out, "--quality", "--threads", 1)


def score(
    folder: Path, trials: str, tests: list[str], *, rule: str = "mean-norm", against: Path | None = None
) -> Figures:
    """Score a list with the embeddings of ``tests``; beside another score file of the same trials."""
    listed = folder / f"{trials}.trials"
    scores = folder / (f"{trials}.scores" if against is None else f"{trials}-{tests[0]}-{rule}.scores")
    options: list[object] = []
    if rule == "expand":
        options = ["--out-trials", folder / f"{trials}-expand.trials"]
    folders = [folder / f"emb-{name}" for name in ("enrol", *tests)]
    farvox("score", listed, *folders, "--out", scores, "--channels", rule, *options)
    if rule == "expand":  # other trials, and millions of them: no intervals
        return dict(json.loads(farvox("evaluate", options[1], scores, "--json")))
    options = ["--intervals", "--speaker-before", "-"]
    if against is not None:
        options += ["--against", renamed(against, scores)]
    return dict(json.loads(farvox("evaluate", listed, scores, "--json", *options)))


def renamed(against: Path, scores: Path) -> Path:
    """The scores ``against`` under the ids of ``scores``, line for line: the same trials, other channels."""
    path = scores.with_suffix(".against")
    with scores.open() as ours, against.open() as theirs, path.open("w") as out:
        for one, other in zip(ours, theirs, strict=True):
            (enrol, test, _), (enrol_too, test_too, value) = one.split(), other.split()
            assert enrol == enrol_too and test.rsplit("_", 1)[0] == test_too.rsplit("_", 1)[0]
            out.write(f"{enrol} {test} {value}\n")
    return path


def farvox(*arguments: object) -> str:
    """What a verb prints to standard output."""
    command = [sys.executable, "-m", "farvox", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return done.stdout


def as_table(choose: Figures, report: Figures) -> str:
    """Markdown: both sets of speakers side by side."""
    lines = [
        "| channels | rule | EER, 76-100 | minDCF "
        "| EER, 101-125 | 95 % | minDCF | EER less one channel's, 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for array, rules in choose.items():
        for rule in rules:
            ours, theirs = rules[rule], report[array][rule]
            span = beside = ""
            if "intervals" in theirs:
                span = "{:.2%} to {:.2%}".format(*theirs["intervals"]["eer"])
            if "against" in theirs:
                found = theirs["against"]["eer"]
                relative = found["difference"] / found["other"]
                beside = "{:+.2%} to {:+.2%}".format(*found["interval"]) + f" ({relative:+.0%})"
            lines.append(
                f"| {array} | {rule} | {ours['eer']:.2%} | {ours['min_dcf']:.3f} | {theirs['eer']:.2%} |"
                f" {span} | {theirs['min_dcf']:.3f} | {beside} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
