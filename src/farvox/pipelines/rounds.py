"""The rounds of self-training on disk: what is done, and what each round came to.

A run dir holds ``round-0`` (the first model, evaluated) and ``round-1``, ``round-2``, ...; in each of them
``done.txt`` lists the finished stages, so that a run which was interrupted goes on with the next one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from farvox.atomic import write_json, write_text
from farvox.datadir.kaldi import read_table
from farvox.errors import DataDirError


@dataclass(frozen=True)
class Round:
    """The folder of one round.

    Attributes:
        number: 0 is the first model as it came.
        path: its folder.
    """

    number: int
    path: Path

    @property
    def embeddings(self) -> Path:
        """Of the unlabelled data dir, by the model that the round begins with."""
        return self.path / "embeddings"

    @property
    def sweep(self) -> Path:
        """The curve over numbers of clusters, while it is being found."""
        return self.path / "sweep.jsonl"

    @property
    def labels(self) -> Path:
        """The pseudo-labelled data dir."""
        return self.path / "labels"

    @property
    def train(self) -> Path:
        """The run dir of the round's training."""
        return self.path / "train"

    def is_done(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return stage in self._done()

    def mark_done(self, stage: str, facts: dict[str, Any] | None = None) -> None:
        """Note that a stage is finished, and what it came to."""
        if facts:
            write_json(self.path / "round.json", self.facts() | facts)
        write_text(self.path / "done.txt", "\n".join(dict.fromkeys([*self._done(), stage])) + "\n")

    def facts(self) -> dict[str, Any]:
        """What the finished stages came to."""
        path = self.path / "round.json"
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return found

    def _done(self) -> list[str]:
        path = self.path / "done.txt"
        return path.read_text("utf-8").split() if path.exists() else []


def labels_of(folder: Path, utt_ids: Sequence[str]) -> pl.Series:
    """The cluster of each utterance, kept or not, by the ``utt2cluster`` of a round.

    Raises:
        DataDirError: an utterance is not in it.
    """
    known = read_table(folder / "utt2cluster", ("utt_id", "label"))
    wanted = pl.DataFrame({"utt_id": pl.Series(utt_ids, dtype=pl.String)})
    labels = wanted.join(known, on="utt_id", how="left", maintain_order="left")["label"]
    if labels.null_count():
        missing = wanted["utt_id"].filter(labels.is_null())[0]
        raise DataDirError(f"{folder / 'utt2cluster'}: does not have '{missing}'")
    return labels.str.split(" ").list.first()


def table_of_rounds(facts: Sequence[dict[str, Any]], trial_lists: Sequence[str]) -> list[list[str]]:
    """One row a round, as text: clusters, kept, agreement with the round before, truth, EER of each list."""
    head = [
        "round",
        "clusters",
        "kept",
        "NMI to last",
        "NMI",
        "purity",
        *(f"EER {name}" for name in trial_lists),
    ]
    rows = []
    for number, each in enumerate(facts):
        truth = each.get("truth") or {}
        eers = each.get("eer", {})
        rows.append(
            [
                str(number),
                _shown(each.get("clusters"), ""),
                _shown(each.get("kept"), ""),
                _shown(each.get("nmi_to_last"), ".4f"),
                _shown(truth.get("nmi"), ".4f"),
                _shown(truth.get("purity"), ".4f"),
                *(_shown(eers.get(name), ".2%") for name in trial_lists),
            ]
        )
    return [head, *rows]


def _shown(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
