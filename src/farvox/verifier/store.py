"""Storage of enrolled speakers: the interface, and one SQLite file behind it.

Callers use `SpeakerStore` only, so that a store of encrypted templates or a service can replace the file.
`SqliteStore` turns templates into bytes in `SqliteStore.add` and back in `_rows`.

Shape suffixes: N enrolment, K some of them, E embedding dimension.
"""

from __future__ import annotations

import heapq
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import platformdirs
from numpy.typing import NDArray

from farvox.errors import StoreError
from farvox.options import nearest
from farvox.verifier.database import DAMAGED, Database, FileState, explained
from farvox.verifier.enrolment import Enrolled, Enrolment, ModelCount, refuse_without_direction, speaker_name

BUSY_SECONDS = 30.0
ROWS_PER_BLOCK = 4096  # a few megabytes at a time in float64


class SpeakerStore(Protocol):
    """Enrolled speakers, by name and embedding space. Every method may raise `StoreError`."""

    def add(self, *enrolments: Enrolment, replace: bool = False) -> None:
        """Enrol all of them or none; a name is enrolled once with a model unless ``replace``."""

    def remove(self, name: str) -> int:
        """Delete the enrolments of ``name`` with all models, for good; returns their number."""

    def listing(self) -> list[Enrolled]:
        """Every enrolment without its template, sorted by name."""

    def models(self) -> list[ModelCount]:
        """The number of speakers enrolled with each model: `best` compares within one only."""

    def best(self, emb_E: NDArray[np.floating], model_digest: str, top: int = 1) -> list[tuple[str, float]]:
        """The ``top`` most similar speakers and their cosine similarity, best first."""

    def close(self) -> None:
        """Close files and free memory; the store may be used again."""


def default_store_path() -> Path:
    """The file of enrolled speakers: in the folder ``FARVOX_DATA``, or else in the user's data folder."""
    chosen = os.environ.get("FARVOX_DATA")
    folder = Path(chosen).expanduser() if chosen else platformdirs.user_data_path("farvox")
    return folder / "speakers.sqlite"


class Templates(NamedTuple):
    """Some enrolments, as they are read from the file."""

    ids: Sequence[int]  # of the rows, ascending, larger than those before
    names: Sequence[str]  # of the speakers, unique in a gallery
    templates_KE: NDArray[np.float32]  # of any lengths


class Gallery:
    """The enrolled speakers of one model in memory, and the exact search among them.

    A gallery never changes: an enrolment or a removal makes another one, so that any number of threads may
    search one while a newer one is made. The newer one uses the free rows of the same buffer: extend only the
    newest gallery, one thread at a time.
    """

    def __init__(self, dim: int) -> None:
        self.ids_N: NDArray[np.int64] = np.empty(0, np.int64)  # ascending
        self.names: list[str] = []  # in the order of the rows
        self._buffer: NDArray[np.float32] = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dim(self) -> int:
        """Embedding dimension E."""
        return int(self._buffer.shape[1])

    @property
    def unit_NE(self) -> NDArray[np.float32]:
        """The templates, scaled to length 1."""
        return self._buffer[: len(self)]

    def extended(self, blocks: Iterable[Templates], count: int) -> Gallery:
        """This gallery and ``count`` more rows; nothing is copied while the buffer has free rows.

        Raises:
            StoreError: a template is zero or not finite.
        """
        total = len(self) + count
        buffer = self._buffer
        if total > len(buffer):
            buffer = np.empty((total + total // 8, self.dim), np.float32)
            buffer[: len(self)] = self.unit_NE
        names, ids = list(self.names), [self.ids_N]
        for block in blocks:
            with np.errstate(invalid="ignore"):  # some NaNs warn when they are converted
                templates_KE = block.templates_KE.astype(np.float64)
            length_K = np.sqrt(np.einsum("ke,ke->k", templates_KE, templates_KE))
            usable_K = np.isfinite(length_K) & (length_K > 0)
            if not usable_K.all():
                name = block.names[int(np.argmin(usable_K))]
                raise StoreError(
                    f"the template of '{name}' is damaged (zero or not finite); forget and enrol it again"
                )
            templates_KE /= length_K[:, None]
            buffer[len(names) : len(names) + len(block.names)] = templates_KE
            names += block.names
            ids.append(np.asarray(block.ids, np.int64))
        return self._with(np.concatenate(ids), names, buffer)

    def keeping(self, ids: NDArray[np.int64]) -> Gallery:
        """The rows of this gallery that have one of ``ids``."""
        kept = np.flatnonzero(np.isin(self.ids_N, ids, assume_unique=True))
        return self._with(self.ids_N[kept], [self.names[n] for n in kept], self._buffer[kept])

    def best(self, emb_E: NDArray[np.floating], top: int) -> list[tuple[str, float]]:
        """The ``top`` nearest by cosine similarity, best first, those of equal score by name.

        All are scored in float32, and again in float64 those that rounding could have kept out of the first
        ``top``. A row's score does not depend on the other rows, so equal rows have equal scores.
        """
        top = min(top, len(self))
        if top == 0:
            return []
        probe_E = emb_E.astype(np.float64)
        probe_E /= np.abs(probe_E).max()  # so that no square of it overflows or vanishes
        probe_E /= np.sqrt(probe_E @ probe_E)
        rough_N = self.unit_NE @ probe_E.astype(np.float32)
        last = np.partition(rough_N, len(self) - top)[len(self) - top]
        rounding = 2 * self.dim * np.finfo(np.float32).eps  # more than a dot product of unit vectors loses
        near = np.flatnonzero(rough_N >= last - rounding)
        scored: list[tuple[float, str]] = []
        for first in range(0, len(near), ROWS_PER_BLOCK):
            rows = near[first : first + ROWS_PER_BLOCK]
            score_K = (self.unit_NE[rows].astype(np.float64) * probe_E).sum(axis=1).clip(-1, 1)
            scored += zip((-score_K).tolist(), (self.names[n] for n in rows), strict=True)
        return [(name, -negated) for negated, name in heapq.nsmallest(top, scored)]

    def _with(self, ids_N: NDArray[np.int64], names: list[str], buffer: NDArray[np.float32]) -> Gallery:
        gallery = Gallery(self.dim)
        gallery.ids_N, gallery.names, gallery._buffer = ids_N, names, buffer
        return gallery


class SqliteStore:
    """A `SpeakerStore` in one SQLite file, for several processes and threads at once.

    The first enrolment makes the file, for its owner only; until then the store is empty. Enrolments and
    removals of another process are seen by the next call, whole; writers wait for one another. One store may
    be shared by the threads of a process: a lock guards the file, and the search itself runs without it. It
    must not be taken through a fork.

    Args:
        path: of the file; ``default_store_path()`` unless given. Nothing is opened yet.
        busy_seconds: longest wait for other processes.
    """

    def __init__(self, path: str | Path | None = None, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path: Path = Path(os.path.realpath(default_store_path() if path is None else path))
        self._database = Database(self.path, busy_seconds)
        # By model digest: the state of the file, and its gallery then; only used when connected.
        self._galleries: dict[str, tuple[FileState, Gallery]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, *enrolments: Enrolment, replace: bool = False) -> None:
        """Enrol all of them or none; with ``replace`` in place of earlier ones of the same names and models.

        Raises:
            StoreError: the name is enrolled with this model already, the template has another dimension
                than those of its model, or the file cannot be written.
        """
        with self._database.connected(create=True) as db, self._database.transaction(db, write=True):
            for each in enrolments:
                dim = len(each.template_E)
                row = (each.model_digest, dim)
                db.execute("INSERT INTO model (digest, dim) VALUES (?, ?) ON CONFLICT DO NOTHING", row)
                found = db.execute("SELECT id, dim FROM model WHERE digest = ?", row[:1])
                model, expected = found.fetchone()
                if dim != expected:
                    raise StoreError(
                        f"the template of '{each.name}' has {dim} dimensions,"
                        f" and those of its model {expected}"
                    )
                key = (each.name, model)
                if replace:
                    db.execute("DELETE FROM enrolment WHERE name = ? AND model = ?", key)
                elif db.execute("SELECT 1 FROM enrolment WHERE name = ? AND model = ?", key).fetchone():
                    raise StoreError(
                        f"'{each.name}' is enrolled with {each.model_name} already: forget that first"
                        " (farvox forget), or replace it (--replace, replace=True)"
                    )
                about = (each.model_name, each.num_recordings, each.seconds, each.enrolled_at)
                db.execute(
                    "INSERT INTO enrolment"
                    " (name, model, model_name, num_recordings, seconds, enrolled_at, template)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*key, *about, each.template_E.astype("<f4").tobytes()),
                )

    def remove(self, name: str) -> int:
        """Delete the enrolments of ``name`` with all models from the file's bytes; returns their number.

        Raises:
            StoreError: the name is unknown (the nearest known one is named), or the file cannot be written.
        """
        name = speaker_name(name)
        with self._database.connected() as db:
            with self._database.transaction(db, write=True):
                count = db.execute("DELETE FROM enrolment WHERE name = ?", (name,)).rowcount
                rows = [] if count else db.execute("SELECT DISTINCT name FROM enrolment").fetchall()
            if count:
                # SQLite's secure_delete wipes a row, but not the copies that are left on pages when rows are
                # moved between them (one in 2,000 removals had one). Only a file that is rewritten has none.
                try:
                    db.execute("VACUUM")
                except sqlite3.Error as error:
                    raise StoreError(
                        f"{self.path}: '{name}' is removed, but traces may be left until the next removal"
                        f" rewrites the file; this time it could not be rewritten: {explained(error)}"
                    ) from error
        if count:
            return count
        if not rows:
            raise StoreError(f"{self.path}: there is no '{name}' to forget: nobody is enrolled")
        hint = nearest(name, [str(other) for (other,) in rows])
        raise StoreError(f"{self.path}: '{name}' is not enrolled{hint}")

    def listing(self) -> list[Enrolled]:
        """Every enrolment without its template, sorted by name."""
        with self._database.connected() as db, self._database.transaction(db):
            rows = db.execute(
                "SELECT name, digest, model_name, num_recordings, seconds, enrolled_at"
                " FROM enrolment JOIN model ON model.id = enrolment.model ORDER BY name, enrolment.id"
            ).fetchall()
        keys = ("name", "model_digest", "model_name", "num_recordings", "seconds", "enrolled_at")
        try:
            return [Enrolled(**dict(zip(keys, row, strict=True))) for row in rows]
        except (StoreError, TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: {DAMAGED} ({error})") from error

    def models(self) -> list[ModelCount]:
        """The number of speakers enrolled with each model, sorted by the name of the model."""
        with self._database.connected() as db, self._database.transaction(db):
            rows = db.execute(
                "SELECT digest, (SELECT model_name FROM enrolment WHERE enrolment.model = model.id"
                " ORDER BY enrolment.id DESC LIMIT 1) AS latest,"
                " (SELECT count(*) FROM enrolment WHERE enrolment.model = model.id) AS speakers"
                " FROM model WHERE speakers > 0 ORDER BY latest, digest"
            ).fetchall()
        return [ModelCount(*row) for row in rows]

    def best(self, emb_E: NDArray[np.floating], model_digest: str, top: int = 1) -> list[tuple[str, float]]:
        """The most similar speakers among those enrolled with one model.

        Args:
            emb_E: of any length.
            model_digest: of its embedding space.
            top: number of speakers, at least 1.

        Returns:
            (name, cosine similarity), best first, equal scores by name; fewer than ``top`` if fewer are
            enrolled with this model, see `models`.

        Raises:
            StoreError: the embedding is zero, not finite or of another dimension than the templates.
        """
        refuse_without_direction(emb_E, "the embedding to identify")
        if top < 1:
            raise StoreError(f"the best {top} speakers were asked for; ask for at least one")
        with self._database.connected() as db, self._database.transaction(db):
            gallery = self._gallery(db, model_digest, len(emb_E))
        return gallery.best(emb_E, top)

    def close(self) -> None:
        """Close the file and free the templates in memory; the next call opens it again."""
        self._database.close()
        self._galleries = {}

    def _gallery(self, db: sqlite3.Connection, digest: str, dim: int) -> Gallery:
        """The current gallery of a model; only the changes since the last call are read."""
        found = db.execute("SELECT id, dim FROM model WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            return Gallery(dim)
        model, expected = found
        if dim != expected:
            raise StoreError(
                f"the embedding to identify has {dim} dimensions, and those of its model {expected}"
            )
        state = self._database.state(db)
        before, gallery = self._galleries.get(digest, (None, Gallery(dim)))
        if before == state:
            return gallery
        if before is None or before.opening != state.opening:
            gallery = Gallery(dim)
        newest = int(gallery.ids_N[-1]) if len(gallery) else 0
        rows = "FROM enrolment WHERE model = ? AND id"
        [known] = db.execute(f"SELECT count(*) {rows} <= ?", (model, newest)).fetchone()
        if known < len(gallery):
            ids = db.execute(f"SELECT id {rows} <= ?", (model, newest))
            gallery = gallery.keeping(np.array(ids.fetchall(), np.int64).reshape(-1))
        [new] = db.execute(f"SELECT count(*) {rows} > ?", (model, newest)).fetchone()
        if new:
            try:
                gallery = gallery.extended(_rows(db, model, dim, newest, new), new)
            except StoreError as error:
                raise StoreError(f"{self.path}: {error}") from None
        self._galleries[digest] = (state, gallery)
        return gallery


def _rows(db: sqlite3.Connection, model: int, dim: int, newest: int, count: int) -> Iterator[Templates]:
    """The ``count`` enrolments after ``newest``, in blocks."""
    # The + keeps SQLite from the index: the rows lie on the disk in the order of their ids.
    cursor = db.execute(
        "SELECT id, name, template FROM enrolment WHERE +model = ? AND id > ? ORDER BY id", (model, newest)
    )
    while rows := cursor.fetchmany(ROWS_PER_BLOCK):
        ids, names, blobs = zip(*rows, strict=True)
        count -= len(rows)
        whole = all(type(blob) is bytes and len(blob) == 4 * dim for blob in blobs)
        if count < 0 or not whole or any(type(name) is not str for name in names):
            raise StoreError(DAMAGED)
        yield Templates(ids, names, np.frombuffer(b"".join(blobs), "<f4").reshape(-1, dim))
    if count:
        raise StoreError(DAMAGED)
