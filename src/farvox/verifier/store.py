"""Where enrolled speakers are kept: the interface, and one SQLite file behind it.

What calls a store knows `SpeakerStore` only, so that a store of sealed templates or a service can take
the place of the file. `SqliteStore` touches templates in two places, `_insert` and `_rows`.

Shape suffixes: N enrolment, K some of them, E embedding dimension.
"""

from __future__ import annotations

import difflib
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import platformdirs
from numpy.typing import NDArray

from farvox.errors import StoreError
from farvox.verifier.enrolment import (
    Enrolled,
    Enrolment,
    ModelCount,
    refuse_without_direction,
    speaker_name,
)
from farvox.verifier.gallery import ROWS_PER_BLOCK, Gallery, Rows

APPLICATION_ID = 0x66617276  # "farv", in the header of the file
FORMAT_VERSION = 1
BUSY_SECONDS = 30.0

_SCHEMA = (
    "CREATE TABLE model (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL)",
    # AUTOINCREMENT: an id is never used again, so rows up to an id can only become fewer.
    """CREATE TABLE enrolment (
        id INTEGER PRIMARY KEY AUTOINCREMENT, model INTEGER NOT NULL REFERENCES model, name TEXT NOT NULL,
        model_name TEXT NOT NULL, num_recordings INTEGER NOT NULL, seconds REAL NOT NULL,
        enrolled_at TEXT NOT NULL, template BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX enrolment_of_name ON enrolment (name, model)",
    "CREATE INDEX enrolment_of_model ON enrolment (model)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)

_CAUSES = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked; try again when that has ended",
    sqlite3.SQLITE_PERM: "no permission; nothing was changed",
    sqlite3.SQLITE_READONLY: "it cannot be written; nothing was changed: look at the permissions",
    sqlite3.SQLITE_CANTOPEN: "it, or a journal beside it, cannot be opened: look at the permissions",
    sqlite3.SQLITE_FULL: "the disk is full; nothing was changed",
    sqlite3.SQLITE_IOERR: "the disk or the system refuses; nothing was changed",
    sqlite3.SQLITE_CORRUPT: "it is damaged: bring back a copy of it, or move it away and enrol again",
    sqlite3.SQLITE_NOTADB: "it is not a store of speakers; choose another place, or move it away",
}

# Held while a file is opened: closing any handle of a file drops this process's locks on it.
_opening = threading.Lock()


class SpeakerStore(Protocol):
    """Enrolled speakers, by name and embedding space. Every method may raise `StoreError`."""

    def add(self, *enrolments: Enrolment, replace: bool = False) -> None:
        """Enrol all of them or none; a name is enrolled once with a model unless ``replace``."""

    def remove(self, name: str) -> int:
        """Forget the enrolments of ``name`` with all models, for good; how many those were."""

    def listing(self) -> list[Enrolled]:
        """Every enrolment without its template, sorted by name."""

    def models(self) -> list[ModelCount]:
        """How many speakers are enrolled with each model: `best` compares within one only."""

    def best(self, emb_E: NDArray[np.floating], model_digest: str, top: int = 1) -> list[tuple[str, float]]:
        """The ``top`` most similar speakers and their cosine similarity, best first."""

    def close(self) -> None:
        """Let go of files and memory; the store may be used again."""


def default_store_path() -> Path:
    """Where speakers are kept: in the folder ``FARVOX_DATA``, or else in the user's data folder."""
    folder = os.environ.get("FARVOX_DATA")
    return (
        Path(folder).expanduser() if folder else platformdirs.user_data_path("farvox")
    ) / "speakers.sqlite"


class SqliteStore:
    """A `SpeakerStore` in one SQLite file, for several processes and threads at once.

    The first enrolment makes the file, for its owner only; until then the store is empty. What another
    process enrols or removes is seen by the next call, whole; writers wait for one another. One store
    may be shared by the threads of a process: a lock guards the file, and the search itself runs outside
    of it. It must not be taken through a fork.

    The journal is the one that is deleted after every change, not a write-ahead log: it needs no shared
    memory and no permission to write for those who only read.

    Args:
        path: of the file; ``default_store_path()`` unless given. Nothing is opened yet.
        busy_seconds: how long to wait for other processes before giving up.
    """

    def __init__(self, path: str | Path | None = None, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = Path(os.path.abspath(default_store_path() if path is None else path))
        self._busy_seconds = busy_seconds
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # the file it is; None: an empty store in memory
        # Of each model digest: the state of the file, and what was enrolled in it.
        self._galleries: dict[str, tuple[tuple[int, int], Gallery]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, *enrolments: Enrolment, replace: bool = False) -> None:
        """Enrol all of them or none.

        Args:
            enrolments: of any models.
            replace: one that has the name and the model of an earlier one takes its place.

        Raises:
            StoreError: the name is enrolled with this model already, the template has another dimension
                than those of its model, or the file cannot be written.
        """
        with self._connected(create=True) as db, self._transaction(db, write=True):
            for enrolment in enrolments:
                self._insert(db, enrolment, replace)

    def remove(self, name: str) -> int:
        """Forget the enrolments of ``name`` with all models; their bytes are gone from the file.

        Returns:
            How many enrolments those were.

        Raises:
            StoreError: the name is unknown (the nearest known one is named), or the file cannot be written.
        """
        name = speaker_name(name)
        with self._connected() as db:
            with self._transaction(db, write=True):
                count = db.execute("DELETE FROM enrolment WHERE name = ?", (name,)).rowcount
                if not count:
                    raise StoreError(f"{self.path}: {_unknown(db, name)}")
            try:
                # secure_delete wipes the row, but not the copies that SQLite leaves on pages when it
                # moves rows between them (seen once in 2,000 removals). Only a new file has none.
                db.execute("VACUUM")
            except sqlite3.Error as error:
                raise StoreError(
                    f"{self.path}: '{name}' is removed, but traces may be left until the next removal"
                    f" rewrites the file; this time it could not be: {_explained(error)}"
                ) from error
        return count

    def listing(self) -> list[Enrolled]:
        """Every enrolment without its template, sorted by name."""
        with self._connected() as db, self._transaction(db):
            rows = db.execute(
                "SELECT name, digest, model_name, num_recordings, seconds, enrolled_at"
                " FROM enrolment JOIN model ON model.id = enrolment.model ORDER BY name, enrolment.id"
            ).fetchall()
        keys = ("name", "model_digest", "model_name", "num_recordings", "seconds", "enrolled_at")
        return [Enrolled(**dict(zip(keys, row, strict=True))) for row in rows]

    def models(self) -> list[ModelCount]:
        """How many speakers are enrolled with each model, sorted by the name of the model."""
        with self._connected() as db, self._transaction(db):
            rows = db.execute(
                "SELECT digest, model_name, speakers FROM"
                " (SELECT model, count(*) AS speakers, max(id) AS latest FROM enrolment GROUP BY model) AS of"
                " JOIN enrolment ON enrolment.id = latest JOIN model ON model.id = of.model"
                " ORDER BY model_name, digest"
            ).fetchall()
        return [ModelCount(*row) for row in rows]

    def best(self, emb_E: NDArray[np.floating], model_digest: str, top: int = 1) -> list[tuple[str, float]]:
        """The most similar speakers among those enrolled with one model.

        Args:
            emb_E: of the same embedding space, of any length.
            model_digest: names that space.
            top: how many, at least 1.

        Returns:
            (name, cosine similarity), best first, equal scores by name; fewer than ``top`` if fewer are
            enrolled with this model, see `models`.

        Raises:
            StoreError: the embedding is zero, not finite or of another dimension than the templates.
        """
        refuse_without_direction(emb_E, "the embedding to identify")
        if top < 1:
            raise StoreError(f"the best {top} speakers were asked for; ask for at least one")
        with self._connected() as db, self._transaction(db):
            gallery = self._gallery(db, model_digest)
        if gallery is None:
            return []
        if gallery.dim != len(emb_E):
            raise StoreError(
                f"the embedding to identify has {len(emb_E)} dimensions, and those of its model {gallery.dim}"
            )
        return gallery.best(emb_E, top)

    def close(self) -> None:
        """Let go of the file and of the templates in memory; the next call opens it again."""
        with self._lock:
            self._disconnect()

    @contextmanager
    def _connected(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; what goes wrong with the file becomes a `StoreError`."""
        if os.getpid() != self._process:
            raise StoreError(f"{self.path}: was opened before a fork; open it in each process")
        with self._lock:
            try:
                # A file that was moved away or put there in the meantime is another store.
                if self._db is None or self._opened != self._file() or (create and self._opened is None):
                    self._disconnect()
                    self._db, self._opened = self._connect(create)
                yield self._db
            except sqlite3.Error as error:
                self._disconnect()
                raise StoreError(f"{self.path}: {_explained(error)}") from error
            except OSError as error:
                self._disconnect()
                raise StoreError(f"{self.path}: cannot be opened: {error}") from error

    def _file(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{self.path}: is no file, and speakers are kept in one; choose another place")
        return found.st_dev, found.st_ino

    def _connect(self, create: bool) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
        with _opening:
            if create:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            file = self._file()
            db = self._open(":memory:" if file is None else str(self.path))
        if create:
            return db, file
        # There is no file, or one whose maker did not come to fill it: nobody is enrolled.
        if not _blank(db):
            return db, file
        db.close()
        db = self._open(":memory:")
        for statement in _SCHEMA:
            db.execute(statement)
        return db, None

    def _open(self, database: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            database, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA temp_store = MEMORY")  # sorting and VACUUM write no names or templates elsewhere
        return db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db, self._opened = None, None
        self._galleries.clear()

    @contextmanager
    def _transaction(self, db: sqlite3.Connection, *, write: bool = False) -> Iterator[None]:
        """All or nothing; whoever writes waits here for other writers, not half-way."""
        db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            self._check_format(db, write)
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _check_format(self, db: sqlite3.Connection, write: bool) -> None:
        if write and _blank(db):
            for statement in _SCHEMA:
                db.execute(statement)
        [application] = db.execute("PRAGMA application_id").fetchone()
        [version] = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StoreError(f"{self.path}: is a database of another program; choose another place")
        if version > FORMAT_VERSION:
            raise StoreError(
                f"{self.path}: has format {version}, and this farvox knows up to {FORMAT_VERSION}:"
                " install a newer one"
            )
        if version < FORMAT_VERSION:
            raise StoreError(f"{self.path}: {_CAUSES[sqlite3.SQLITE_CORRUPT]} (format {version})")

    def _insert(self, db: sqlite3.Connection, enrolment: Enrolment, replace: bool) -> None:
        dim = len(enrolment.template_E)
        db.execute(
            "INSERT INTO model (digest, dim) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (enrolment.model_digest, dim),
        )
        model, expected = db.execute(
            "SELECT id, dim FROM model WHERE digest = ?", (enrolment.model_digest,)
        ).fetchone()
        if dim != expected:
            raise StoreError(
                f"the template of '{enrolment.name}' has {dim} dimensions, and those of its model {expected}"
            )
        key = (enrolment.name, model)
        if replace:
            db.execute("DELETE FROM enrolment WHERE name = ? AND model = ?", key)
        elif db.execute("SELECT 1 FROM enrolment WHERE name = ? AND model = ?", key).fetchone():
            raise StoreError(
                f"'{enrolment.name}' is enrolled with {enrolment.model_name} already: forget that first"
                " (farvox forget), or say that it is to be replaced"
            )
        db.execute(
            "INSERT INTO enrolment (name, model, model_name, num_recordings, seconds, enrolled_at, template)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                enrolment.model_name,
                enrolment.num_recordings,
                enrolment.seconds,
                enrolment.enrolled_at,
                enrolment.template_E.astype("<f4").tobytes(),
            ),
        )

    def _gallery(self, db: sqlite3.Connection, digest: str) -> Gallery | None:
        """What is enrolled with a model now; of what was known before, only the changes are read."""
        found = db.execute("SELECT id, dim FROM model WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            return None
        model, dim = found
        [others] = db.execute("PRAGMA data_version").fetchone()  # changes by others; ours are counted here:
        state = (others, db.total_changes)
        before, gallery = self._galleries.get(digest, (None, Gallery(dim)))
        if before == state:
            return gallery
        newest = int(gallery.ids_N[-1]) if len(gallery) else 0
        [known] = db.execute(
            "SELECT count(*) FROM enrolment WHERE model = ? AND id <= ?", (model, newest)
        ).fetchone()
        if known < len(gallery):
            ids = db.execute("SELECT id FROM enrolment WHERE model = ? AND id <= ?", (model, newest))
            gallery = gallery.keeping(np.array(ids.fetchall(), np.int64).reshape(-1))
        [new] = db.execute(
            "SELECT count(*) FROM enrolment WHERE model = ? AND id > ?", (model, newest)
        ).fetchone()
        if new:
            gallery = gallery.extended(self._rows(db, model, dim, newest), new)
        self._galleries[digest] = (state, gallery)
        return gallery

    def _rows(self, db: sqlite3.Connection, model: int, dim: int, newest: int) -> Iterator[Rows]:
        """Enrolments after ``newest``, in blocks."""
        # The + keeps SQLite from the index: the rows lie on the disk in the order of their ids.
        cursor = db.execute(
            "SELECT id, name, template FROM enrolment WHERE +model = ? AND id > ? ORDER BY id",
            (model, newest),
        )
        while rows := cursor.fetchmany(ROWS_PER_BLOCK):
            ids, names, blobs = zip(*rows, strict=True)
            if any(type(blob) is not bytes or len(blob) != 4 * dim for blob in blobs):
                raise StoreError(f"{self.path}: {_CAUSES[sqlite3.SQLITE_CORRUPT]}")
            yield Rows(ids, names, np.frombuffer(b"".join(blobs), "<f4").reshape(-1, dim))


def _blank(db: sqlite3.Connection) -> bool:
    """Whether nothing was ever made in it, as in an empty file."""
    marks = ("schema_version", "application_id", "user_version")
    return all(db.execute(f"PRAGMA {mark}").fetchone() == (0,) for mark in marks)


def _explained(error: sqlite3.Error) -> str:
    cause = _CAUSES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "it cannot be used")
    return f"{cause} ({error})"


def _unknown(db: sqlite3.Connection, name: str) -> str:
    known = [row[0] for row in db.execute("SELECT DISTINCT name FROM enrolment")]
    if not known:
        return f"there is no '{name}' to forget: nobody is enrolled"
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f"'{name}' is not enrolled" + (f"; did you mean '{folded[near[0]]}'?" if near else "")
