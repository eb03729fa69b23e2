"""Fusion: the scores of several systems become one log-likelihood ratio a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

import farvox
from farvox.atomic import refuse_to_replace
from farvox.errors import FarvoxError, LabelError, TrialError, UsageError
from farvox.options import Metavar
from farvox.pipelines.calibrate import (
    FITTED,
    FORMAT,
    FitOptions,
    fitted_on,
    leaks_of_fit,
    note_few_speakers,
    read_calibration,
    refuse_other_scores,
    speakers_behind,
)
from farvox.pipelines.score import Scores
from farvox.progress import Note, silent
from farvox.reprs import short_repr
from farvox.score.trials import TrialList


@dataclass(frozen=True, kw_only=True)
class FuseOptions(FitOptions):
    """Options of a fusion.

    Raises:
        UsageError: options that need one another or exclude one another.
    """

    out: Annotated[Path | None, Metavar("SCORES")] = None
    """With --apply: score file to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.apply) != bool(self.out):
            raise UsageError("--apply FILE.json and --out SCORES go together")


@dataclass(frozen=True)
class Fusion:
    """The fit ``llr = offset + sum of scale * score`` over the systems, in nats.

    Attributes:
        scales: of each system by its name.
        num_speakers: in the trials it was fitted on; None where they are not known.
        table: all that is known of it, as ``--save`` writes it.
    """

    scales: dict[str, float]
    offset: float
    num_speakers: int | None
    table: dict[str, Any]

    __repr__ = short_repr


def fuse(
    systems: Mapping[str, Scores], options: FuseOptions = FuseOptions(), *, note: Note = silent
) -> Fusion:
    """Fit the linear fusion of systems on scored trials.

    The trials should be of speakers that no system was trained on and that nothing is reported on later.

    Args:
        systems: the scores of each, all of one trial list.
        options: where it goes, and who speaks.
        note: called with a line on what is not known, or is doubtful.

    Raises:
        TrialError: no labels, another trial list, trials that are too few or too easy, a system that adds
            nothing, or too few speakers.
    """
    from farvox.atomic import write_json
    from farvox.report.results import provenance
    from farvox.score.calibrate import fit_llr

    trials, first = _shared_trials(systems), next(iter(systems.values()))
    if options.save:
        refuse_to_replace(options.save, FITTED, [trials.path])
    if trials.target is None:
        raise TrialError(f"{trials.path}: no labels, so there is nothing to fit a fusion by ({trials.form})")
    for line in dict.fromkeys(line for scores in systems.values() for line in scores.meta.get("leaks", [])):
        note(line)
    num_speakers, num_fitted = None, len(systems) + 1
    try:
        num_speakers = len(speakers_behind(first, options).names)
    except FarvoxError as error:
        if options.trial_speakers or options.speaker_before or isinstance(error, LabelError):
            raise
        note(f"unknown speakers: {error}; --trial-speakers or --speaker-before says who speaks")
    if num_speakers is not None and num_speakers <= num_fitted:
        raise TrialError(
            f"{trials.path}: {num_speakers} speakers are too few for the {num_fitted} numbers of a fusion of "
            f"{len(systems)} systems: {num_fitted + 1} or more are needed, and ten times as many advised"
        )
    if num_speakers is not None:
        note_few_speakers(num_speakers, num_fitted, note)
    scores_NK = np.stack([scores.values for scores in systems.values()], axis=1)
    weights, offset = fit_llr(scores_NK, trials.target, list(systems))
    scales = dict(zip(systems, weights.tolist(), strict=True))
    for name, scale in scales.items():
        if scale < 0:
            note(f"note: a higher score of {name} makes the fused one lower")
    table = {
        "format": FORMAT,
        "kind": "fusion",
        "offset": offset,
        "systems": {name: {"scale": scales[name], **fitted_on(each)} for name, each in systems.items()},
        "num_target": int(np.sum(trials.target)),
        "num_nontarget": int(len(trials) - np.sum(trials.target)),
        "num_speakers": num_speakers,
        "note": options.note,
        **provenance([trials.path], []),
    }
    del table["scores"]  # each system has its own
    if options.save:
        write_json(options.save, table, FITTED)
    return Fusion(scales, offset, num_speakers, table)


def apply_fusion(
    systems: Mapping[str, Scores],
    path: str | Path,
    *,
    out: str | Path | None = None,
    note: Note = silent,
) -> Scores:
    """Turn the scores of several systems into natural-log likelihood ratios by a fusion fitted on others.

    Args:
        systems: the scores of each, by the names of the fit; their trials need no labels.
        path: what ``farvox fuse --save`` wrote.
        out: score file to write.
        note: called with a line on what is not known and on what was written.

    Raises:
        UsageError: the systems are not those of the fit.
        TrialError: the file is no fusion, the scores are of several lists, or some were made by other rules.
        DataDirError: some are of another model.
    """
    from farvox.atomic import sha256_of
    from farvox.score.scores import write_scores

    fitted, trials = read_calibration(path, "fusion"), _shared_trials(systems)
    parts = fitted["systems"]
    if parts.keys() != systems.keys():
        raise UsageError(
            f"{path} is of the systems {', '.join(parts)}, and these are {', '.join(systems)}: "
            "name them as there, NAME=SCORES"
        )
    systems = {name: systems[name] for name in parts}  # in the order of the fit, whose sum it is
    for name, scores in systems.items():
        refuse_other_scores(parts[name], scores, path, system=name, note=note)
    values = fitted["offset"] + sum(parts[name]["scale"] * scores.values for name, scores in systems.items())
    metas = {name: scores.meta for name, scores in systems.items()}
    leaks = leaks_of_fit(fitted, trials.path, path)
    for line in leaks:
        note(line)
    digest, used = sha256_of(path), next(iter(metas.values())).get("scoring", {})
    meta = {
        "farvox_version": farvox.__version__,
        "trials": str(trials.path),
        "embeddings": list(dict.fromkeys(e for m in metas.values() for e in m.get("embeddings", []))),
        "inputs": {key: state for m in metas.values() for key, state in m.get("inputs", {}).items()},
        "model": str(path),
        "digest": digest,
        "scoring": {
            "back_end": "fusion",
            **{key: used[key] for key in ("enrol_map", "test_map") if used.get(key)},
            "fusion": {
                "file": str(path),
                "sha256": digest,
                "offset": fitted["offset"],
                "systems": {
                    name: {
                        "scale": parts[name]["scale"],
                        "sha256": m.get("sha256"),
                        "model": m.get("model"),
                        "scoring": m.get("scoring", {}),
                    }
                    for name, m in metas.items()
                },
            },
        },
        "leaks": list(dict.fromkeys([*(x for m in metas.values() for x in m.get("leaks", [])), *leaks])),
    }
    found = Scores(trials, np.asarray(values), meta, str(out or ""))
    if out:
        write_scores(out, trials, found.values, meta)
        note(f"{len(found.values):,} log-likelihood ratios: {out}")
    return found


def _shared_trials(systems: Mapping[str, Scores]) -> TrialList:
    """The one trial list of some systems; no systems, or several lists, are refused."""
    if not systems:
        raise UsageError("a fusion is of the scores of one system or more")
    first, *others = [scores.trials for scores in systems.values()]
    for other in others:
        if not (other.enrol.equals(first.enrol) and other.test.equals(first.test)):
            raise TrialError(
                f"{other.path}: other trials than {first.path}, so that their scores do not meet"
            )
    return first
