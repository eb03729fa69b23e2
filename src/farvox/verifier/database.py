"""The SQLite file of a store, used by several processes and threads at once; its errors are explained.

The journal is the one that is deleted after every change, not a write-ahead log: that needs no shared memory,
and no permission to write for readers.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from farvox.errors import StoreError

APPLICATION_ID = 0x66617276  # "farv", in the header of the file
FORMAT_VERSION = 1

_SCHEMA = (
    "CREATE TABLE model (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL)",
    # AUTOINCREMENT: an id is never used again, so the rows up to an id can only become fewer.
    """CREATE TABLE enrolment (
        id INTEGER PRIMARY KEY AUTOINCREMENT, model INTEGER NOT NULL REFERENCES model, name TEXT NOT NULL,
        model_name TEXT NOT NULL, num_recordings INTEGER NOT NULL, seconds REAL NOT NULL,
        enrolled_at TEXT NOT NULL, template BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX enrolment_of_name ON enrolment (name, model)",
    "CREATE INDEX enrolment_of_model ON enrolment (model)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)

DAMAGED = "it is damaged: bring back a copy of it, or move it away and enrol again"
NO_STORE = "it is not a store of speakers: choose another place, or move it away"
_CAUSES = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked; try again when that has ended",
    sqlite3.SQLITE_PERM: "the system refuses: look at the permissions",
    sqlite3.SQLITE_READONLY: "it cannot be written: look at the permissions",
    sqlite3.SQLITE_CANTOPEN: "it, or a journal beside it, cannot be opened: look at the permissions",
    sqlite3.SQLITE_FULL: "the disk is full: make room and try again",
    sqlite3.SQLITE_IOERR: "the disk or the system refuses",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_ERROR: DAMAGED,  # a table or a column is not there
    sqlite3.SQLITE_NOTADB: NO_STORE,
}

# Held while a file is made and opened: closing any handle of a file drops this process's locks on it.
_opening = threading.Lock()


class FileState(NamedTuple):
    """State of the file: equal states have equal contents."""

    opening: int  # number of times it has been opened; another opening may be of another file
    by_others: int  # changes by other connections, as SQLite counts them
    by_us: int  # rows changed through this connection


class Database:
    """The file of a store, opened when it is first needed; one thread uses it at a time.

    The first opening with ``create`` makes it, for its owner only; until then it is empty for all others. It
    must not be taken through a fork. ``busy_seconds`` is the longest wait for other processes.
    """

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # the file it is; None: an empty store in memory
        self._openings = 0

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            self._disconnect()

    def state(self, db: sqlite3.Connection) -> FileState:
        """The state of the file within a transaction."""
        [by_others] = db.execute("PRAGMA data_version").fetchone()
        return FileState(self._openings, by_others, db.total_changes)

    @contextmanager
    def connected(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time.

        Raises:
            StoreError: for any error of the file.
        """
        if os.getpid() != self._process:
            raise StoreError(f"{self.path}: was opened before a fork; open it in each process")
        with self._lock:
            try:
                # A file that was moved away or replaced in the meantime is another store.
                if self._db is None or self._opened != self._file() or (create and self._opened is None):
                    self._disconnect()
                    self._db, self._opened = self._connect(create)
                    self._openings += 1
                yield self._db
            except sqlite3.Error as error:
                self._disconnect()
                raise StoreError(f"{self.path}: {explained(error)}") from error
            except UnicodeDecodeError as error:
                raise StoreError(f"{self.path}: {DAMAGED} ({error})") from error
            except OSError as error:
                self._disconnect()
                raise StoreError(f"{self.path}: cannot be opened: {error}") from error

    def _file(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(
                f"{self.path}: it is not a file, as a store of speakers is: choose another place"
            )
        return found.st_dev, found.st_ino

    def _connect(self, create: bool) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
        with _opening:
            if create:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            file = self._file()
            db = self._open(str(self.path) if create or file else ":memory:")
        try:
            # There is no file, or one that was made but not filled: nobody is enrolled.
            if not create and self._is_blank(db):
                db.close()
                file, db = None, self._open(":memory:")
                _create_tables(db)
            db.execute("PRAGMA secure_delete = ON")
            # Sorting and VACUUM write no names or templates into other files.
            db.execute("PRAGMA temp_store = MEMORY")
        except sqlite3.Error:
            db.close()
            raise
        return db, file

    def _open(self, database: str) -> sqlite3.Connection:
        return sqlite3.connect(
            database, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db, self._opened = None, None

    @contextmanager
    def transaction(self, db: sqlite3.Connection, *, write: bool = False) -> Iterator[None]:
        """Run a block all or nothing; a writer waits for other writers here, not in the middle of it."""
        db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            if write and self._is_blank(db):
                _create_tables(db)
            [application] = db.execute("PRAGMA application_id").fetchone()
            [version] = db.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise StoreError(f"{self.path}: {NO_STORE}")
            if version > FORMAT_VERSION:
                raise StoreError(
                    f"{self.path}: it has format {version}, and this farvox reads up to {FORMAT_VERSION}:"
                    " install a newer one"
                )
            if version < FORMAT_VERSION:
                raise StoreError(f"{self.path}: {DAMAGED} (format {version})")
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _is_blank(self, db: sqlite3.Connection) -> bool:
        # The query also rolls back the half-made file of a process that was killed.
        # SQLite treats files of a few bytes as empty; they must not be overwritten.
        [schema] = db.execute("PRAGMA schema_version").fetchone()
        return schema == 0 and (self._file() is None or self.path.stat().st_size == 0)


def _create_tables(db: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        db.execute(statement)


def explained(error: sqlite3.Error) -> str:
    """Explain an error of SQLite to a user."""
    # The only operational error without a code is that of text that is not UTF-8.
    otherwise = sqlite3.SQLITE_ERROR if isinstance(error, sqlite3.OperationalError) else 0
    code = getattr(error, "sqlite_errorcode", otherwise)
    cause = _CAUSES.get(code & 0xFF, "it cannot be used")
    return f"{cause} ({error})"
