"""Embeddings on disk: a folder with `embeddings.npy` [N, E], `utt_ids.txt` and `meta.json`.

Large sets have parts in its place, `part-00000.npy` and so on, which are read as one array.

The metadata name the model; embeddings and scores of different models are never mixed (`shared_origin`).

Shape suffixes: N utterance, E embedding dimension.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from farvox.atomic import atomic_dir, refuse_url, visible, write_json
from farvox.audio.quality import OF_SAMPLES
from farvox.datadir.kaldi import read_table
from farvox.datadir.strings import StringTable
from farvox.errors import DataDirError
from farvox.parsing import PAGE, map_parts, parse_json, read_array, write_part
from farvox.progress import Note, silent
from farvox.reprs import short_repr
from farvox.writers import writes

WHOLE, PART, PARTS = "embeddings.npy", "part-{:05d}.npy", "parts.json"
OWN_FILES = (WHOLE, PART.format(0), PARTS)
"""Files of a folder of embeddings; one that holds them may be replaced by other embeddings."""
QUALITY_FILE = "utt2quality"
MEASURES_FILE = "utt2measures"
SPEAKERS_FILE, RECORDINGS_FILE = "utt2spk", "utt2recording"
ORIGIN = ("dimension", "frontend", "model", "conditioning", "epoch", "digest")
"""Entries of metadata that must not differ among embeddings that are used together."""


ROWS = PAGE // 4
"""Parts have a multiple of so many rows, but for the last one, so that each ends with a page."""


def files_of(folder: Path) -> list[Path]:
    """The files of the embeddings of a folder: all its parts in order, or the only one."""
    count = len(visible(folder, "part-*.npy"))
    if (folder / WHOLE).exists() or not (count or (folder / PARTS).exists()):
        return [folder / WHOLE]
    return [folder / PART.format(number) for number in range(max(count, len(_marks(folder))))]


def _marks(folder: Path) -> dict[str, str]:
    """The `_mark` of each part by its name, as they were written; of an earlier farvox none."""
    if not (path := folder / PARTS).exists():
        return {}
    marks = parse_json(path.read_text("utf-8"))
    if not isinstance(marks, dict):
        raise ValueError(f"{PARTS} is no table")
    return marks


def _mark(part: Path) -> str:
    """SHA-256 of the first two pages of a part and of its last: its shape, and the rows at its ends."""
    with part.open("rb") as file:
        head = file.read(2 * PAGE)
        file.seek(max(0, part.stat().st_size - PAGE))
        return sha256(head + file.read()).hexdigest()


def _map(folder: Path) -> npt.NDArray[np.float32]:
    """The embeddings of a folder; parts that are not those that were written together are named."""
    files = files_of(folder)
    if files[0].name == WHOLE:
        return read_array(files[0], mapped=True)
    missing = [part.name for part in files if not part.exists()]
    if missing:
        raise ValueError(f"of {len(files):,} parts these are missing: {', '.join(missing[:5])}")
    found, marks = map_parts(files), _marks(folder)
    for part in files if marks else ():
        if _mark(part) != marks.get(part.name):
            raise ValueError(
                f"{part.name} is not the part that was written here, but of another place or another set; "
                f"where that is meant, remove {PARTS}"
            )
    return found


@dataclass(frozen=True)
class EmbeddingSet:
    """The embeddings of some utterances, as the network computed them (not length-normalised).

    Attributes:
        utt_ids: names of the utterances, in the order of the rows; unique. Of a set on disk they are mapped.
        embeddings: float32 [N, E].
        meta: their origin (model, data dir, ...), in any form that JSON holds.
        quality: of each recording, in dB (float32 [N]), by `farvox.farfield.mixing.energy_snr`; None where it
            was not measured.
        speaker_ids: the speaker of each, null where not known; None where none is.
        recordings: the recording that each is, or is a copy of (`farvox.datadir.conditions.recordings_of`);
            None where each is its own.
        measures: of each recording, `farvox.audio.quality.OF_SAMPLES` (float32 [N, M]); None if not measured.

    Raises:
        DataDirError: the numbers of ids and rows differ, or an id is there twice.
    """

    utt_ids: Sequence[str]
    embeddings: npt.NDArray[np.float32]
    meta: dict[str, Any] = field(default_factory=dict)
    quality: npt.NDArray[np.float32] | None = None
    speaker_ids: pl.Series | None = None
    recordings: pl.Series | None = None
    measures: npt.NDArray[np.float32] | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or self.embeddings.dtype != np.float32:
            found = f"{self.embeddings.dtype} {list(self.embeddings.shape)}"
            raise DataDirError(f"embeddings are float32 [utterance, dimension], not {found}")
        if len(self.utt_ids) != len(self.embeddings):
            raise DataDirError(
                f"{len(self.utt_ids)} utterance ids for {len(self.embeddings)} embeddings; extract them again"
            )
        if self.quality is not None and self.quality.shape != (len(self.utt_ids),):
            raise DataDirError(
                f"{len(self.quality)} qualities for {len(self.utt_ids)} utterances; extract them again"
            )
        ids = self.ids
        is_again = ids == ids.shift() if ids.is_sorted() else ~ids.is_first_distinct()
        if is_again.any():
            raise DataDirError(f"the embedding of '{ids.filter(is_again)[0]}' is there twice")

    def __len__(self) -> int:
        return len(self.utt_ids)

    @property
    def ids(self) -> pl.Series:
        """The names as a column, which takes memory while it is held: some 40 bytes each."""
        if isinstance(self.utt_ids, StringTable):
            return self.utt_ids.column()
        return pl.Series(self.utt_ids, dtype=pl.String)

    def rows(self, ids: Sequence[str] | pl.Series) -> npt.NDArray[np.int64]:
        """Row numbers of many utterances, in the order of ``ids``.

        Raises:
            DataDirError: an id has no embedding; the first one is named.
        """
        wanted = pl.DataFrame({"utt_id": pl.Series(ids, dtype=pl.String)})
        known = pl.DataFrame({"utt_id": self.ids}).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        known = known.filter(pl.col("utt_id").is_in(wanted["utt_id"].unique().implode()))
        found = wanted.join(known, on="utt_id", how="left", maintain_order="left")["row"]
        if found.null_count():
            missing = wanted["utt_id"].filter(found.is_null())
            raise DataDirError(
                f"'{missing[0]}' has no embedding ({missing.n_unique()} such utterances); "
                "extract the data dir that holds it"
            )
        return found.to_numpy()

    @writes("path")
    def save(self, path: str | Path, *, rejected: Path | None = None, part_rows: int | None = None) -> None:
        """Write the folder ``path``, whole or not at all; an earlier set of embeddings is replaced.

        Args:
            part_rows: write parts of so many rows, up to a multiple of `ROWS`, and not one file.
            rejected: a list of what has no embedding, which is copied into it.
        """
        with atomic_dir(path, own_files=OWN_FILES) as folder:
            if part_rows is None:
                np.save(folder / WHOLE, self.embeddings)
            else:
                step = -(-part_rows // ROWS) * ROWS
                for number, start in enumerate(range(0, max(1, len(self)), step)):
                    write_part(folder / PART.format(number), self.embeddings[start : start + step])
                parts = visible(folder, "part-*.npy")
                write_json(folder / PARTS, {part.name: _mark(part) for part in parts})
            (folder / "utt_ids.txt").write_bytes("".join(f"{utt_id}\n" for utt_id in self.utt_ids).encode())
            write_json(folder / "meta.json", self.meta)
            if rejected:
                shutil.copyfile(rejected, folder / rejected.name)
            if self.quality is not None:
                pairs = zip(self.utt_ids, self.quality.tolist(), strict=True)
                lines = "".join(f"{utt_id} {quality:.2f}\n" for utt_id, quality in pairs)
                (folder / QUALITY_FILE).write_bytes(lines.encode())
            if self.measures is not None:
                rows = zip(self.utt_ids, self.measures.tolist(), strict=True)
                lines = "".join(
                    "\t".join((utt_id, *(f"{x:.7g}" for x in row))) + "\n" for utt_id, row in rows
                )
                (folder / MEASURES_FILE).write_bytes(
                    ("\t".join(("utt_id", *OF_SAMPLES)) + "\n" + lines).encode()
                )
            for name, values in ((SPEAKERS_FILE, self.speaker_ids), (RECORDINGS_FILE, self.recordings)):
                if values is not None and values.count():
                    pairs = zip(self.utt_ids, values, strict=True)
                    lines = "".join(f"{utt_id} {value}\n" for utt_id, value in pairs if value is not None)
                    (folder / name).write_bytes(lines.encode())

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingSet:
        """Open the folder ``path``; the embeddings are memory-mapped, read when they are touched.

        Raises:
            DataDirError: a file is missing or damaged, or they do not fit one another.
        """
        folder = Path(path)
        refuse_url(folder)
        try:
            embeddings = _map(folder)
            utt_ids = StringTable.of_lines(folder / "utt_ids.txt")
            ids = utt_ids.column()
            meta = parse_json((folder / "meta.json").read_text("utf-8"))
            if not isinstance(meta, dict):
                raise ValueError("meta.json is no table")
            quality = None
            if (folder / QUALITY_FILE).is_file():
                table = read_table(folder / QUALITY_FILE, ("utt_id", "value"))
                if not table["utt_id"].equals(ids):
                    raise ValueError(f"{QUALITY_FILE} is not of these utterances")
                quality = table["value"].cast(pl.Float32).to_numpy()
            measures = None
            if (folder / MEASURES_FILE).is_file():
                table = pl.read_csv(
                    folder / MEASURES_FILE, separator="\t", quote_char=None, infer_schema=False
                )
                if table.columns != ["utt_id", *OF_SAMPLES] or not table["utt_id"].equals(ids):
                    raise ValueError(f"{MEASURES_FILE} is not of these utterances")
                numbers = table.select(OF_SAMPLES).cast(pl.Float32, strict=False)
                measures = np.ascontiguousarray(numbers.to_numpy())
                good_U = np.all(np.isfinite(measures) & (measures >= 0), axis=1)
                if not good_U.all():
                    utt_id, *found = table.row(int(np.argmin(good_U)))
                    values = " ".join(map(str, found))
                    raise ValueError(f"{MEASURES_FILE}: {utt_id}: {values}: no numbers from 0")
            speaker_ids, recordings = (
                _values(folder / name, ids) for name in (SPEAKERS_FILE, RECORDINGS_FILE)
            )
            if recordings is not None:
                recordings = pl.select(pl.coalesce(recordings, ids)).to_series()
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise DataDirError(
                f"{folder}: not a folder of embeddings (no {missing}); 'farvox extract' makes one"
            ) from None
        except (ValueError, EOFError, OSError, pl.exceptions.PolarsError) as error:
            raise DataDirError(f"{folder}: damaged embeddings ({error}); extract them again") from None
        try:
            return cls(utt_ids, embeddings, meta, quality, speaker_ids, recordings, measures)
        except DataDirError as error:
            raise DataDirError(f"{folder}: {error}") from None

    def num_relabelled(self) -> int:
        """Utterances that the data dir, where that is still there, gives another speaker by now."""
        if self.speaker_ids is None or not (data_dir := self.meta.get("data_dir")):
            return 0
        now = _values(Path(str(data_dir), SPEAKERS_FILE), self.ids)
        return 0 if now is None else int((now != self.speaker_ids).sum())


def _values(path: Path, utt_ids: pl.Series) -> pl.Series | None:
    """The value of each utterance by a file of lines ``utt_id value``, null where it has none."""
    if not path.is_file():
        return None
    known = read_table(path, ("utt_id", "value")).unique("utt_id", keep="last")
    wanted = pl.DataFrame({"utt_id": utt_ids})
    return wanted.join(known, on="utt_id", how="left", maintain_order="left")["value"]


def shared_origin(metas: Mapping[str, Mapping[str, Any]], remedy: str, note: Note = silent) -> dict[str, Any]:
    """The origin of embeddings, scores or models that are used together, as far as it is known.

    Equal digests settle it; otherwise entries of `ORIGIN` that two of them have must not contradict.

    Args:
        metas: the metadata of each, by what a message calls it.
        remedy: ends the message.
        note: called where precisions or what computed differ, and once where an origin is not known.

    Returns:
        Entries for the metadata of what is made of them; without a digest where one is not known.

    Raises:
        DataDirError: two are of different models, front-ends or epochs; both and the difference are named.
    """
    origin: dict[str, Any] = {}
    source: dict[str, str] = {}
    for where, meta in metas.items():
        known = {key: meta[key] for key in ORIGIN if meta.get(key) is not None}
        if known.get("digest"):  # earlier than conditioning, or without
            known.setdefault("conditioning", {})
        if not known.get("digest") or known["digest"] != origin.get("digest"):
            for key in filter(origin.keys().__contains__, known):
                if difference := _difference(known[key], origin[key], key):
                    raise DataDirError(
                        f"{where}: of another model than {source[key]}: {difference}; {remedy}"
                    )
        for key in [key for key in known if key not in origin]:  # in order, so that files are the same
            origin[key], source[key] = known[key], where
    for key, what in (("precision", "precisions"), ("backend", "libraries and devices")):
        found = {where: str(meta[key]) for where, meta in metas.items() if meta.get(key)}
        if len(kinds := dict.fromkeys(found.values())) > 1:
            listed = ", ".join(f"{where} in {value}" for where, value in found.items())
            note(f"note: embeddings of several {what}: {listed}")
        origin[key] = ", ".join(kinds) or None
    if unknown := [where for where, meta in metas.items() if not meta.get("digest")]:
        origin.pop("digest", None)
        note(
            f"note: the model of {', '.join(unknown)} is not known (imported, changed since, or made by an "
            "earlier farvox), so it is not checked that all is of one model"
        )
    return {key: value for key, value in origin.items() if key != "dimension" and value not in (None, {})}


def _difference(one: Any, other: Any, name: str) -> str:
    """A first entry in which two values contradict each other; of tables only what both have is compared."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if bool(one) != bool(other):
            return f"{name} {dict(one) or 'none'}, not {dict(other) or 'none'}"
        inside = (_difference(one[key], other[key], f"{name}.{key}") for key in one if key in other)
        return next(filter(None, inside), "")
    return "" if one == other else f"{name} {one!r}, not {other!r}"
