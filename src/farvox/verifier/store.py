"""Storage of enrolled speakers: the interface, and one SQLite file behind it.

Callers use `SpeakerStore` only, so that another kind of store can replace the file. Templates become sealed
bytes in `_write`, and templates again in `_records`; `farvox.verifier.vault` has the keys.

Shape suffixes: N enrolment, K some of them, E embedding dimension.
"""

from __future__ import annotations

import heapq
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import platformdirs
from numpy.typing import NDArray

from farvox.errors import SpeakerError, StoreError
from farvox.options import nearest
from farvox.progress import Note, silent
from farvox.verifier.database import DAMAGED, FORMAT_VERSION, Database, FileState, create_records, explained
from farvox.verifier.enrolment import Enrolled, Enrolment, ModelCount, refuse_without_direction, speaker_name
from farvox.verifier.vault import LogEntry, Record, Vault, keys_folder, write_masters

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
    """A `SpeakerStore` in one SQLite file and a file of keys, for several processes and threads at once.

    The first enrolment makes the file, for its owner only; until then the store is empty. Enrolments and
    removals of another process are seen by the next call, whole; writers wait for one another. One store may
    be shared by the threads of a process: a lock guards the file, and the search itself runs without it. It
    must not be taken through a fork.

    Templates are sealed with keys that lie elsewhere (`farvox.verifier.vault`). A store of before that was so
    is sealed when it is first used.

    Args:
        path: of the file; ``default_store_path()`` unless given. Nothing is opened yet.
        busy_seconds: longest wait for other processes.
        note: takes a line when a store of before is sealed.
    """

    def __init__(
        self, path: str | Path | None = None, *, busy_seconds: float = BUSY_SECONDS, note: Note = silent
    ) -> None:
        self.path: Path = Path(os.path.realpath(default_store_path() if path is None else path))
        self._note = note
        self._database = Database(self.path, busy_seconds)
        self._checked = 0  # the opening of the file whose records were compared with the keys
        # By model digest: the state of the file, and its gallery then; only used when connected.
        self._galleries: dict[str, tuple[FileState, Gallery]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def copy_path(self) -> Path:
        """The copy that `rekey` keeps of a store whose templates were not sealed."""
        return self.path.with_name(f"{self.path.name}.plain")

    def add(self, *enrolments: Enrolment, replace: bool = False) -> None:
        """Enrol all of them or none; with ``replace`` in place of earlier ones of the same names and models.

        Raises:
            StoreError: the name is enrolled with this model already, the template has another dimension
                than those of its model, or the file cannot be written.
        """
        with self._opened(create=True, write=True) as (db, vault):
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
                    _drop(db, vault, "replace", "WHERE name = ? AND model = ?", key)
                elif db.execute("SELECT 1 FROM enrolment WHERE name = ? AND model = ?", key).fetchone():
                    raise SpeakerError(
                        f"'{each.name}' is enrolled with {each.model_name} already: forget that first"
                        " (farvox forget), or replace it (--replace, replace=True)"
                    )
                about = (each.name, each.model_name, each.num_recordings, each.seconds, each.enrolled_at)
                record = Record(secrets.token_hex(16), each.model_digest, dim, *about)
                _write(db, vault, record, unit_length(each.template_E))
                vault.log("enrol", record.subject)

    def remove(self, name: str) -> int:
        """Delete the enrolments of ``name`` with all models, and their keys; returns their number.

        No byte of a template is left in the file, and older copies of the file open it no more.

        Raises:
            StoreError: the name is unknown (the nearest known one is named), or the file cannot be written.
        """
        name = speaker_name(name)
        with self._opened(write=True, is_whole=False) as (db, vault):
            count = len(_drop(db, vault, "forget", "WHERE name = ?", (name,)))
            rows = [] if count else db.execute("SELECT DISTINCT name FROM enrolment").fetchall()
        if count:
            self._wipe(f"'{name}' is removed")
            return count
        if not rows:
            raise SpeakerError(f"{self.path}: there is no '{name}' to forget: nobody is enrolled")
        hint = nearest(name, [str(other) for (other,) in rows])
        raise SpeakerError(f"{self.path}: '{name}' is not enrolled{hint}")

    def sweep(self, days: float) -> list[str]:
        """Remove, as `remove` does, what was enrolled more than ``days`` days ago; returns the names.

        Raises:
            StoreError: the file cannot be written.
        """
        last = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        with self._opened(write=True, is_whole=False) as (db, vault):
            names = _drop(db, vault, "sweep", "WHERE julianday(enrolled_at) < julianday(?)", (last,))
        if names:
            self._wipe(f"what was enrolled before {last[:19]} is removed")
        return names

    def rekey(self, *, keep_copy: bool = False) -> int:
        """Renew the master key, the rotation and the key of every enrolment; returns how many there are.

        No recordings are needed for that, and older copies of the file open no more. Enrolments that are
        missing in it are given up.

        Args:
            keep_copy: of a store of before templates were sealed, keep the file as it was at `copy_path`.

        Raises:
            StoreError: a record is damaged, or a file cannot be written.
        """
        with self._opened(write=True, is_whole=False, keep_copy=keep_copy) as (db, vault):
            if not vault.store:
                return 0
            opened = [
                (record, vault.rotation(record.digest, record.dim).T @ np.frombuffer(rotated, "<f4"))
                for record, rotated in _records(db, vault)
            ]
            place, new = vault.renew({record.subject for record, _ in opened})
            db.execute("DELETE FROM enrolment")
            for record, unit_E in opened:
                _write(db, vault, record, unit_E)
            vault.log("rekey")
            db.execute("UPDATE store SET unwiped = 1")
        write_masters(place, [new])
        self._wipe("the keys are renewed")
        return len(opened)

    def log(self) -> list[LogEntry]:
        """Every enrolment, removal and change of keys, oldest first, without names of the forgotten.

        Raises:
            StoreError: the log was changed.
        """
        with self._opened() as (_, vault):
            return vault.entries() if vault.store else []

    def listing(self) -> list[Enrolled]:
        """Every enrolment without its template, sorted by name."""
        with self._opened() as (db, vault):
            records = [record for record, _ in _records(db, vault)] if vault.store else []
        try:
            listed = [
                Enrolled(
                    name=each.name,
                    model_digest=each.digest,
                    model_name=each.model_name,
                    num_recordings=each.num_recordings,
                    seconds=each.seconds,
                    enrolled_at=each.enrolled_at,
                )
                for each in records
            ]
        except (StoreError, TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: {DAMAGED} ({error})") from error
        return sorted(listed, key=lambda each: each.name)

    def models(self) -> list[ModelCount]:
        """The number of speakers enrolled with each model, sorted by the name of the model."""
        with self._opened() as (db, _):
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
        dim = len(emb_E)
        with self._opened() as (db, vault):
            gallery = self._gallery(db, vault, model_digest, dim)
            if not len(gallery):
                return []
            rotation_EE = vault.rotation(model_digest, dim)
        largest = np.abs(emb_E).max().astype(np.float64)  # so that no square overflows or vanishes
        return gallery.best(rotation_EE @ (emb_E.astype(np.float64) / largest), top)

    def close(self) -> None:
        """Close the file and free the templates in memory; the next call opens it again."""
        self._database.close()
        self._galleries = {}

    @contextmanager
    def _opened(
        self, *, create: bool = False, write: bool = False, is_whole: bool = True, keep_copy: bool = False
    ) -> Iterator[tuple[sqlite3.Connection, Vault]]:
        """The file in a transaction, and its keys; sealed and, once in an opening, compared with them.

        ``is_whole``: refuse a file in which enrolments are missing.
        """
        with self._database.connected(create=create) as db:
            if self._database.is_plain(db):
                self._seal(db, keep_copy)
            opening = self._database.state(db).opening
            if opening != self._checked:
                with self._database.transaction(db, write=create):
                    vault = Vault(db, self.path)
                    forgotten, is_wiped = vault.forgotten(), not vault.unwiped
                if forgotten:  # the file is an older copy
                    with self._database.transaction(db, write=True):
                        db.executemany("DELETE FROM enrolment WHERE subject = ?", forgotten)
                if forgotten or not is_wiped:
                    with suppress(sqlite3.Error):  # the next opening tries it again
                        self._database.wipe(db)
            with self._database.transaction(db, write=write):
                vault = Vault(db, self.path)
                if is_whole and opening != self._checked:
                    vault.refuse_missing()
                    self._checked = opening
                yield db, vault

    def _seal(self, db: sqlite3.Connection, keep_copy: bool) -> None:
        """Seal the templates of a store of before; it is changed only if all can be read back."""
        with self._database.transaction(db, write=True, plain=True):
            if not self._database.is_plain(db):
                return  # another process was faster
            if keep_copy:
                self._database.copy(db, self.copy_path)
            db.execute("ALTER TABLE enrolment RENAME TO plain")
            db.execute("DROP INDEX enrolment_of_name")
            db.execute("DROP INDEX enrolment_of_model")
            create_records(db)
            vault = Vault(db, self.path)
            given: list[NDArray[np.float64]] = []
            plain = (
                "SELECT digest, dim, name, model_name, num_recordings, seconds, enrolled_at, template"
                " FROM plain LEFT JOIN model ON model.id = plain.model ORDER BY plain.id"
            )
            for digest, dim, *about, template in db.execute(plain).fetchall():
                if type(template) is not bytes or not dim or len(template) != 4 * dim:
                    raise StoreError(f"{self.path}: {DAMAGED}")
                given.append(unit_length(np.frombuffer(template, "<f4")))
                _write(db, vault, Record(secrets.token_hex(16), digest, dim, *about), given[-1])
            for (record, rotated), unit_E in zip(_records(db, vault), given, strict=True):
                back_E = vault.rotation(record.digest, record.dim).T @ np.frombuffer(rotated, "<f4")
                if np.isfinite(unit_E).all() and np.abs(back_E - unit_E).max() > 1e-6:
                    raise StoreError(f"{self.path}: the template of '{record.name}' could not be sealed")
            db.execute("DROP TABLE plain")
            db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            vault.log("seal")
        self._database.wipe(db)
        self._note(
            f"{self.path}: the templates of {len(given)} enrolments, which were plain, are sealed now; only"
            f" who has the keys in {keys_folder()} can use them"
        )

    def _wipe(self, done: str) -> None:
        with self._database.connected() as db:
            try:
                self._database.wipe(db)
            except sqlite3.Error as error:
                raise StoreError(
                    f"{self.path}: {done}, but traces may be left until the next use rewrites the file;"
                    f" this time it could not be rewritten: {explained(error)}"
                ) from error

    def _gallery(self, db: sqlite3.Connection, vault: Vault, digest: str, dim: int) -> Gallery:
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
            kept = db.execute(f"SELECT id {rows} <= ?", (model, newest))
            gallery = gallery.keeping(np.array(kept.fetchall(), np.int64).reshape(-1))
        new = [row for (row,) in db.execute(f"SELECT id {rows} > ? ORDER BY id", (model, newest))]
        try:
            gallery = gallery.extended(_blocks(db, vault, digest, dim, newest, new), len(new))
        except StoreError as error:
            told = str(error).removeprefix(f"{self.path}: ")
            raise StoreError(f"{self.path}: {told}") from None
        self._galleries[digest] = (state, gallery)
        return gallery


def unit_length(template_E: NDArray[np.float32]) -> NDArray[np.float64]:
    """A template with length 1; NaN where it has none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        wide_E = template_E.astype(np.float64)
        unit_E: NDArray[np.float64] = wide_E / np.sqrt(wide_E @ wide_E)
    return unit_E


def _write(db: sqlite3.Connection, vault: Vault, record: Record, unit_E: NDArray[np.float64]) -> None:
    rotated_E = vault.rotation(record.digest, record.dim) @ unit_E
    sealed = vault.seal_record(record, rotated_E.astype("<f4").tobytes())
    about = (record.name, record.model_name, record.num_recordings, record.seconds, record.enrolled_at)
    db.execute(
        "INSERT INTO enrolment"
        " (subject, model, name, model_name, num_recordings, seconds, enrolled_at, template)"
        " VALUES (?, (SELECT id FROM model WHERE digest = ?), ?, ?, ?, ?, ?, ?)",
        (record.subject, record.digest, *about, sealed),
    )


def _records(db: sqlite3.Connection, vault: Vault, newest: int = 0) -> Iterator[tuple[Record, bytes]]:
    """The records after ``newest`` and their rotated templates, opened, in the order of their ids."""
    rows = db.execute(
        "SELECT (SELECT sealed FROM keys.key WHERE store = ? AND key.subject = enrolment.subject), template,"
        " subject, digest, dim, name, model_name, num_recordings, seconds, enrolled_at"
        " FROM enrolment LEFT JOIN model ON model.id = enrolment.model WHERE enrolment.id > ?"
        " ORDER BY enrolment.id",
        (vault.store, newest),
    )
    for sealed_key, template, *columns in rows:
        record = Record(*columns)
        yield record, vault.open_record(record, sealed_key, template)


def _blocks(
    db: sqlite3.Connection, vault: Vault, digest: str, dim: int, newest: int, ids: Sequence[int]
) -> Iterator[Templates]:
    """The enrolments of a model after ``newest``, which have these ids; those of others are opened, too."""
    # A record that was moved to another model would else not be missed.
    rows = (
        (record.name, rotated) for record, rotated in _records(db, vault, newest) if record.digest == digest
    )
    for first in range(0, len(ids), ROWS_PER_BLOCK):
        own = ids[first : first + ROWS_PER_BLOCK]
        block = list(islice(rows, len(own)))
        if len(block) != len(own) or any(len(rotated) != 4 * dim for _, rotated in block):
            raise StoreError(DAMAGED)
        templates_KE = np.frombuffer(b"".join(rotated for _, rotated in block), "<f4").reshape(-1, dim)
        yield Templates(own, [name for name, _ in block], templates_KE)
    if next(rows, None):
        raise StoreError(DAMAGED)


def _drop(
    db: sqlite3.Connection, vault: Vault, action: str, which: str, words: Sequence[object]
) -> list[str]:
    """Delete records and destroy their keys; returns the names."""
    found = db.execute(f"SELECT subject, name FROM enrolment {which}", words).fetchall()
    for subject, _ in found:
        vault.destroy(subject, action)
    if found:
        db.execute(f"DELETE FROM enrolment {which}", words)
        db.execute("UPDATE store SET unwiped = 1")
    return [name for _, name in found]
