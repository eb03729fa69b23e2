"""The SQLite file of a store, used by several processes and threads at once; its errors are explained.

The file of keys is attached to it, so that a transaction changes both or neither.

The journal is the one that is deleted after every change, not a write-ahead log: that needs no shared memory,
and no permission to write for readers.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from farvox.errors import StoreError
from farvox.verifier.vault import BRING_KEYS, KEYS_ID, KEYS_SCHEMA, keys_folder

APPLICATION_ID = 0x66617276  # "farv", in the header of the file
FORMAT_VERSION = 2
PLAIN_VERSION = 1  # its templates are not sealed

_MODELS = "CREATE TABLE model (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL)"
_RECORDS = (
    # logged: number of entries in its log; unwiped: traces of what was removed may be left in the file
    "CREATE TABLE store (id TEXT NOT NULL, logged INTEGER NOT NULL, unwiped INTEGER NOT NULL)",
    # AUTOINCREMENT: an id is never used again, so the rows up to an id can only become fewer.
    """CREATE TABLE enrolment (
        id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL, model INTEGER NOT NULL REFERENCES model,
        name TEXT NOT NULL, model_name TEXT NOT NULL, num_recordings INTEGER NOT NULL, seconds REAL NOT NULL,
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


FileNumbers = tuple[int, int]  # of the device and the file


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
        self._opened: Sequence[FileNumbers | None] = ()  # the file and that of the keys; None: in memory
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
                files = (_numbers(self.path), _numbers(keys_file()))
                if self._db is None or self._opened != files or (create and None in files):
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

    def _connect(self, create: bool) -> tuple[sqlite3.Connection, Sequence[FileNumbers | None]]:
        keys = keys_file()
        with _opening:
            if create:
                _make(self.path)
            file = _numbers(self.path)
            db = self._open(str(self.path) if create or file else ":memory:")
        try:
            # There is no file, or one that was made but not filled: nobody is enrolled.
            is_blank = self._is_blank(db)
            if is_blank and not create:
                db.close()
                file, db = None, self._open(":memory:")
                for statement in (_MODELS, *_RECORDS):
                    db.execute(statement)
            elif is_blank or db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,):
                if create or self.is_plain(db):
                    self._make_keys(keys)
                self._attach(db, keys)
            db.execute("PRAGMA secure_delete = ON")
            # Sorting and VACUUM write no names or templates into other files.
            db.execute("PRAGMA temp_store = MEMORY")
        except (sqlite3.Error, StoreError, OSError):
            db.close()
            raise
        return db, (file, _numbers(keys))

    def _make_keys(self, keys: Path) -> None:
        with _opening:
            _make(keys)
        try:
            with closing(self._open(str(keys))) as db:
                db.execute("BEGIN IMMEDIATE")
                if not db.execute("PRAGMA schema_version").fetchone()[0]:
                    for statement in KEYS_SCHEMA:
                        db.execute(statement)
                db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"{keys}: {explained(error)}") from error

    def _attach(self, db: sqlite3.Connection, keys: Path) -> None:
        if _numbers(keys) is None:
            raise StoreError(f"{self.path}: its keys are not in {keys.parent}: {BRING_KEYS}")
        db.execute("SELECT count(*) FROM sqlite_schema")  # so that the errors that follow are of the keys
        try:
            db.execute("ATTACH ? AS keys", (str(keys),))
            is_own = db.execute("PRAGMA keys.application_id").fetchone() == (KEYS_ID,)
        except sqlite3.Error as error:
            raise StoreError(f"{keys}: {explained(error)}") from error
        if not is_own:
            raise StoreError(
                f"{keys}: it is not a file of keys: move it away, or set FARVOX_KEYS to another folder"
            )

    def _open(self, database: str) -> sqlite3.Connection:
        return sqlite3.connect(
            database, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db, self._opened = None, ()

    def is_plain(self, db: sqlite3.Connection) -> bool:
        """True for a store of before templates were sealed."""
        [application] = db.execute("PRAGMA application_id").fetchone()
        [version] = db.execute("PRAGMA user_version").fetchone()
        return (application, version) == (APPLICATION_ID, PLAIN_VERSION)

    def wipe(self, db: sqlite3.Connection) -> None:
        """Rewrite the file and that of the keys, so that no byte is left in them of what was removed."""
        # SQLite's secure_delete wipes a row, but not the copies that are left on pages when rows are
        # moved between them (one in 2,000 removals had one). Only a file that is rewritten has none.
        db.execute("VACUUM")
        db.execute("VACUUM keys")
        db.execute("UPDATE store SET unwiped = 0")

    def copy(self, db: sqlite3.Connection, path: Path) -> None:
        """Copy the file, for its owner only.

        Raises:
            StoreError: there is something at ``path``.
        """
        if path.exists():
            raise StoreError(
                f"{path}: is there already, and a copy of the store was to be kept there: move it away"
            )
        _make(path)
        path.write_bytes(db.serialize())

    @contextmanager
    def transaction(
        self, db: sqlite3.Connection, *, write: bool = False, plain: bool = False
    ) -> Iterator[None]:
        """Run a block all or nothing; a writer waits for other writers here, not in the middle of it.

        ``plain`` lets a store of before templates were sealed pass.
        """
        db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            if write and self._is_blank(db):
                db.execute(_MODELS)
                create_records(db)
            [application] = db.execute("PRAGMA application_id").fetchone()
            [version] = db.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise StoreError(f"{self.path}: {NO_STORE}")
            if version > FORMAT_VERSION:
                raise StoreError(
                    f"{self.path}: it has format {version}, and this farvox reads up to {FORMAT_VERSION}:"
                    " install a newer one"
                )
            if version < (PLAIN_VERSION if plain else FORMAT_VERSION):
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
        return schema == 0 and (_numbers(self.path) is None or self.path.stat().st_size == 0)


def keys_file() -> Path:
    """The file of the keys of all stores of the user."""
    return keys_folder() / "subjects.keys"


def create_records(db: sqlite3.Connection) -> None:
    """Make the tables of sealed enrolments, and number the store."""
    for statement in _RECORDS:
        db.execute(statement)
    db.execute("INSERT INTO store VALUES (?, 0, 0)", (secrets.token_hex(16),))


def _make(path: Path) -> None:
    """Make an empty file for its owner only, if there is none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _numbers(path: Path) -> FileNumbers | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: it is not a file, as a store of speakers is: choose another place")
    return found.st_dev, found.st_ino


def explained(error: sqlite3.Error) -> str:
    """Explain an error of SQLite to a user."""
    # The only operational error without a code is that of text that is not UTF-8.
    otherwise = sqlite3.SQLITE_ERROR if isinstance(error, sqlite3.OperationalError) else 0
    code = getattr(error, "sqlite_errorcode", otherwise)
    cause = _CAUSES.get(code & 0xFF, "it cannot be used")
    return f"{cause} ({error})"
