"""The sections of a report on an evaluation: differences, calibration, conditions, failures, provenance."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl

from farvox.datadir.kaldi import DataDir
from farvox.metrics.detection import Ints, errors_by_speaker, hardest_errors
from farvox.report.figures import ScoreSet, forest_figure, reliability_figure
from farvox.report.page import Link, Picture, Section
from farvox.report.text import condition_rows_of, difference_rows, rounded

MOST_CELLS = 60  # conditions in a forest plot
MOST_TRIALS = 5  # of each kind, system by system
MOST_SPEAKERS = 10  # in the table of those who fail
Target = Callable[[str], str | None]
"""The address of an utterance's recording; None where it is not known."""


def difference_section(pairs: Sequence[Mapping[str, Any]], system: Mapping[str, Any]) -> Section:
    """The differences of pairs of systems; see `farvox.report.text.difference_rows`."""
    note = (
        "Paired: both systems on the same resamples of the speakers. p is the probability of so large a"
        " difference where there is none; it is not corrected for the number of comparisons."
    )
    return Section("Differences", difference_rows(pairs, system), note=note)


def reliability_section(systems: Sequence[ScoreSet]) -> Section:
    """The reliability diagram of scores that are log-likelihood ratios."""
    names = ", ".join(each.name for each in systems)
    picture = Picture(
        "reliability",
        "Reliability of the log-likelihood ratios",
        f"Given against observed natural-log likelihood ratios in bins of trials: {names}.",
        "On the dotted line a ratio means what it says; where the curve is flatter than the line, the ratios"
        " promise too much. Its ends are level where only one kind of trial is left. Cllr - minCllr is what"
        " a better calibration could save, in bits.",
        reliability_figure(systems),
    )
    return Section("Calibration", pictures=[picture])


def condition_section(by: Sequence[str], tables: Sequence[Mapping[str, Any]]) -> Section:
    """The figures of each condition by each system, as a table and, of few, as a plot."""
    conditions = {table["system"]: table["conditions"] for table in tables}
    title, pictures = f"By {', '.join(by)}", []
    cells = len(next(iter(conditions.values())))
    if cells <= MOST_CELLS:
        sure = any(each.get("intervals") for of_system in conditions.values() for each in of_system)
        pictures.append(
            Picture(
                "conditions",
                f"EER by {', '.join(by)}",
                "The EER of each condition by each system; the figures are in the table above.",
                "Each condition at its own threshold." + (" Bar: 95 % interval." if sure else ""),
                forest_figure(conditions, {table["system"]: table["eer"] for table in tables}),
            )
        )
    return Section(title, condition_rows_of({table["system"]: table for table in tables}), pictures)


def hardest_section(
    systems: Sequence[ScoreSet],
    thresholds: Sequence[float],
    enrol: pl.Series,
    test: pl.Series,
    target_of: Target | None = None,
) -> Section:
    """The trials that are furthest on the wrong side of each system's threshold.

    Args:
        systems: their scores, on one list.
        thresholds: one for each system.
        enrol, test: names of both sides of every trial.
        target_of: leads to the recordings; no links without it.
    """

    def named(utt_id: str) -> str | Link:
        found = target_of(utt_id) if target_of else None
        return Link(utt_id, found) if found else utt_id

    rows: list[list[str | Link]] = [["system", "error", "enrolment", "test", "score"]]
    for system, threshold in zip(systems, thresholds, strict=True):
        found = hardest_errors(system.scores, system.target, threshold, MOST_TRIALS)
        for kind, places in zip(("false accept", "false reject"), found, strict=True):
            rows += [
                [system.name, kind, named(enrol[n]), named(test[n]), f"{system.scores[n]:.4f}"]
                for n in places.tolist()
            ]
    each = ", ".join(f"{threshold:.4f} ({s.name})" for s, threshold in zip(systems, thresholds, strict=True))
    note = f"At the threshold {each}; of each kind the five that are furthest from it."
    return Section("Hardest trials", rows, note=note)


def speaker_section(
    systems: Sequence[ScoreSet],
    thresholds: Sequence[float],
    enrol: Ints,
    test: Ints,
    names: pl.Series,
) -> Section:
    """The speakers whose trials fail most, at each system's threshold.

    Args:
        systems, thresholds: see `hardest_section`.
        enrol, test: numbers of the speakers of both sides, [num_trials].
        names: name of each number.
    """
    rows = [["system", "speaker", "FRR", "false rejects", "FAR", "false accepts"]]
    notes = []
    for system, threshold in zip(systems, thresholds, strict=True):
        found = errors_by_speaker(system.scores, system.target, enrol, test, threshold)
        frr_S = found.rejected_S / np.maximum(found.targets_S, 1)
        far_S = found.accepted_S / np.maximum(found.nontargets_S, 1)
        worst = np.argsort(-(frr_S + far_S), kind="stable")[:MOST_SPEAKERS]
        for s in worst[(frr_S + far_S)[worst] > 0].tolist():
            counts = found.targets_S[s], found.nontargets_S[s]
            rows.append(
                [
                    system.name,
                    str(names[s]),
                    rounded(frr_S[s], int(counts[0]), "%") if counts[0] else "-",
                    f"{found.rejected_S[s]:,} of {counts[0]:,}",
                    rounded(far_S[s], int(counts[1]), "%") if counts[1] else "-",
                    f"{found.accepted_S[s]:,} of {counts[1]:,}",
                ]
            )
        clean = int(np.count_nonzero((found.rejected_S + found.accepted_S) == 0))
        rejected = np.cumsum(np.sort(found.rejected_S)[::-1])
        half = f", {np.searchsorted(rejected, rejected[-1] / 2) + 1} make half of all false rejects"
        notes.append(
            f"{system.name}: {clean:,} of {len(names):,} speakers have no error{half if rejected[-1] else ''}"
        )
    note = f"{'; '.join(notes)}. A non-target trial counts for both of its speakers."
    return Section("Speakers who fail", rows, note=note)


def audio_links(report: Path, data_dirs: Sequence[Path]) -> Target:
    """The way from a report to the recordings of data dirs: relative paths, of files on this machine only.

    Raises:
        DataDirError: a data dir cannot be read.
    """
    folder = report.parent if report.suffix in (".html", ".htm") else report
    tables = [DataDir.open(each, remote=True).table for each in data_dirs if each.is_dir()]
    path_of = {utt_id: path for table in tables for utt_id, path in table.select("utt_id", "wav_path").rows()}

    def target_of(utt_id: str) -> str | None:
        path = path_of.get(utt_id) or path_of.get(utt_id.removesuffix(".wav"))
        if path is None or not Path(path).is_file():
            return None
        return quote(os.path.relpath(Path(path).resolve(), folder.resolve()))

    return target_of


def provenance_section(provenance: Mapping[str, Any], counts: str) -> Section:
    """Date, counts, command, versions and digests; see `farvox.report.results.provenance`."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    rows = [
        ["what", "value"],
        ["date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")],
        ["trials", counts],
        ["command", provenance["command"]],
        ["versions", versions],
        *([f"trial list {path}", f"SHA-256 {digest}"] for path, digest in provenance["trials"].items()),
    ]
    for path, each in provenance["scores"].items():
        model = f"; model digest {each['model_digest']}" if each["model_digest"] else ""
        rows.append([f"scores {path}", f"SHA-256 {each['sha256']}{model}"])
    return Section("Provenance", rows, is_text=True)
