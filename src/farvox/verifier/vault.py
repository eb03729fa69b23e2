"""The keys of a store: templates are rotated and sealed, and forgotten by destroying a key.

A master key seals one key for each enrolment, and for each store one for its rotation and one for its log.
It lies in the keyring of the system, or in a file for its owner only; what it seals lies in a second SQLite
file, which a store attaches as ``keys`` and changes in one transaction with its own. A template is rotated by
a matrix that its store's key determines, which leaves every cosine as it was, and sealed with AES-256-GCM
together with all that its record says.

Shape suffixes: E embedding dimension.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import platformdirs
from numpy.typing import NDArray

from farvox.errors import MissingExtraError, StoreError

Place = Literal["file", "keyring"]
NONCE_BYTES = 12
_OWN = "SELECT subject FROM keys.key WHERE store = ? AND length(subject) = 32"  # without the store's own two
FORGOTTEN = ("forget", "replace", "sweep")  # actions of the log that end the life of a record
BRING_KEYS = (
    "set FARVOX_KEYS to where its keys are, bring back a copy of them, or move the store away and enrol again"
)
KEYS_ID = 0x6661726B  # "fark", in the header of the file
KEYS_SCHEMA = (
    "CREATE TABLE master (place TEXT NOT NULL, identity TEXT NOT NULL)",
    """CREATE TABLE key (
        store TEXT NOT NULL, subject TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (store, subject))""",
    """CREATE TABLE log (
        store TEXT NOT NULL, number INTEGER NOT NULL, at TEXT NOT NULL, action TEXT NOT NULL,
        subject TEXT NOT NULL, mac TEXT NOT NULL, PRIMARY KEY (store, number))""",
    *(
        f"CREATE TRIGGER no_{change.lower()} BEFORE {change} ON log"
        " BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END"
        for change in ("UPDATE", "DELETE")
    ),
    f"PRAGMA application_id = {KEYS_ID}",
)


class LogEntry(NamedTuple):
    """One change of a store; a subject is the random number of an enrolment."""

    at: str  # ISO 8601, UTC
    action: str
    subject: str  # empty where the action is on the whole store
    name: str | None  # of the subject while it is enrolled


class Record(NamedTuple):
    """An enrolment as it is sealed: all of it is authenticated with the template."""

    subject: str
    digest: str  # of the model
    dim: int
    name: str
    model_name: str
    num_recordings: int
    seconds: float
    enrolled_at: str


def keys_folder() -> Path:
    """The folder of the keys: ``FARVOX_KEYS``, or ``keys`` in the user's folder of settings."""
    chosen = os.environ.get("FARVOX_KEYS")
    return Path(chosen).expanduser() if chosen else platformdirs.user_config_path("farvox") / "keys"


def seal(key: bytes, plain: bytes, about: Sequence[Any]) -> bytes:
    """Seal bytes with AES-256-GCM, bound to ``about``: numbers and text that open them again."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed: bytes = _cipher(key).encrypt(nonce, plain, json.dumps(about).encode())
    return nonce + sealed


def unseal(key: bytes, sealed: bytes, about: Sequence[Any]) -> bytes | None:
    """Open what `seal` made; None where it, its key or ``about`` is another."""
    cipher = _cipher(key)
    from cryptography.exceptions import InvalidTag

    try:
        plain: bytes = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], json.dumps(about).encode())
    except (InvalidTag, TypeError, ValueError):  # TypeError: a damaged column has another type
        return None
    return plain


@lru_cache(maxsize=8)
def rotation(key: bytes, model_digest: str, dim: int) -> NDArray[np.float64]:
    """The orthogonal matrix [E, E] that a key determines for the embeddings of one model.

    It is drawn from all rotations and reflections alike (Mezzadri 2007, "How to generate random matrices from
    the classical compact groups"): Q of the QR decomposition of normal numbers, with R's diagonal positive.
    The numbers come from SHAKE-256 of the key, not from numpy's generators, whose normal numbers may change
    with a version. Processors differ in Q by some 1e-13, far below the rounding of templates to float32.
    """
    stream = hashlib.shake_256(key + f"{model_digest} {dim}".encode()).digest(16 * dim * dim)
    radius, turn = ((np.frombuffer(stream, "<u8") >> 11) + 0.5).reshape(2, dim, dim) * 2.0**-53
    normal_EE = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * turn)
    q_EE, r_EE = np.linalg.qr(normal_EE)
    matrix: NDArray[np.float64] = q_EE * np.sign(np.diag(r_EE))
    matrix.flags.writeable = False
    return matrix


class Vault:
    """The keys of one store during a transaction; those that are missing are made where it writes.

    Args:
        db: the store's connection, with the file of keys attached.
        path: of the store, for messages.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._db = db
        self._master: bytes = b""
        self._last: tuple[int, str] | None = None  # number and MAC of the last entry of the log
        self._own: dict[str, bytes] = {}
        # Both are of no store where nobody is enrolled.
        found: tuple[str, int] = db.execute("SELECT id, unwiped FROM store").fetchone() or ("", 0)
        self.store, self.unwiped = found

    @property
    def master(self) -> bytes:
        """The master key.

        Raises:
            StoreError: it is not where it was.
        """
        if self._master:
            return self._master
        found = self._db.execute("SELECT place, identity FROM keys.master").fetchone()
        if found is None:
            place: Place = "file" if os.environ.get("FARVOX_KEYS") or not _has_keyring() else "keyring"
            known = read_masters(place)  # of a process that was killed before it was entered here
            self.set_master(place, known[0] if known else secrets.token_bytes(32))
            if not known:
                write_masters(place, [self._master])
            return self._master
        matching = [key for key in read_masters(found[0]) if _identity(key) == found[1]]
        if not matching:
            raise StoreError(
                f"{self.path}: the master key of its keys is not in {_where(found[0])}: {BRING_KEYS}"
            )
        self._master = matching[0]
        return self._master

    def set_master(self, place: Place, key: bytes) -> None:
        """Enter another master key; whoever calls seals all keys with it again."""
        self._db.execute("DELETE FROM keys.master")
        self._db.execute("INSERT INTO keys.master VALUES (?, ?)", (place, _identity(key)))
        self._master = key

    def rotation(self, model_digest: str, dim: int) -> NDArray[np.float64]:
        """The store's rotation of the templates of a model: matrix [E, E]."""
        return rotation(self._own_key("rotation"), model_digest, dim)

    def seal_record(self, record: Record, template: bytes) -> bytes:
        """Seal a template with a new key of its own, bound to its record."""
        return seal(self._enter(record.subject, secrets.token_bytes(32)), template, self._about(record))

    def open_record(self, record: Record, sealed_key: bytes | None, sealed: bytes) -> bytes:
        """Open a template.

        Raises:
            StoreError: the record or its key was changed, or is of another time.
        """
        key = self._open_key(record.subject, sealed_key)
        template = None if key is None else unseal(key, sealed, self._about(record))
        if template is None:
            raise StoreError(
                f"{self.path}: the record of '{record.name}' does not fit its key: it is damaged or changed,"
                " or of a copy from before 'farvox rekey'; forget and enrol it again"
            )
        return template

    def forgotten(self) -> list[tuple[str]]:
        """The subjects that the file has and whose keys were destroyed: it is an older copy.

        Raises:
            StoreError: other keys are missing.
        """
        if not self.store:
            return []
        gone = self._db.execute(f"SELECT subject FROM enrolment EXCEPT {_OWN}", (self.store,)).fetchall()
        if not gone:
            return []
        query = f"SELECT subject FROM keys.log WHERE store = ? AND action IN {FORGOTTEN}"
        ended = set(self._db.execute(query, (self.store,)))
        if lost := [subject for subject in gone if subject not in ended]:
            raise StoreError(
                f"{self.path}: {len(lost)} of its enrolments have no key in {keys_folder()}: {BRING_KEYS}"
            )
        return gone

    def refuse_missing(self) -> None:
        """Refuse a file that lacks enrolments.

        Raises:
            StoreError: there are keys without a record.
        """
        if self.store:
            query = f"SELECT count(*) FROM ({_OWN} EXCEPT SELECT subject FROM enrolment)"
            [missing] = self._db.execute(query, (self.store,)).fetchone()
            if missing:
                raise StoreError(
                    f"{self.path}: {missing} enrolments are missing: it is damaged, or an older copy; bring"
                    " back the newest one, or go on without them ('farvox rekey')"
                )

    def renew(self, subjects: Collection[str]) -> tuple[Place, bytes]:
        """Make another master key and rotation, and drop keys but those of ``subjects``.

        The old master key is kept beside the new one, which is returned with its place, until the caller has
        committed.
        """
        new = secrets.token_bytes(32)
        [place] = self._db.execute("SELECT place FROM keys.master").fetchone() or ["file"]
        for (subject,) in self._db.execute(_OWN, (self.store,)).fetchall():
            if subject not in subjects:
                self.destroy(subject, "lost")
        self._own_key("log")
        write_masters(place, [self.master, new])
        opened = [
            (store, subject, unseal(self.master, sealed, ["key", store, subject]))
            for store, subject, sealed in self._db.execute(
                "SELECT store, subject, sealed FROM keys.key"
            ).fetchall()
        ]
        self.set_master(place, new)
        for store, subject, key in opened:
            if key is not None:  # else it was damaged before, and its store says so
                self._enter(subject, key, store)
        self._own["rotation"] = self._enter("rotation", secrets.token_bytes(32))
        return place, new

    def _about(self, record: Record) -> list[Any]:
        return ["template", self.store, *record]

    def _own_key(self, purpose: Literal["rotation", "log"]) -> bytes:
        """A key of the store as a whole, made when it is first needed."""
        if purpose not in self._own:
            query = "SELECT sealed FROM keys.key WHERE store = ? AND subject = ?"
            found = self._db.execute(query, (self.store, purpose)).fetchone()
            key = self._open_key(purpose, *found) if found else self._enter(purpose, secrets.token_bytes(32))
            if key is None:
                raise StoreError(f"{self.path}: its key of the {purpose} is damaged: {BRING_KEYS}")
            self._own[purpose] = key
        return self._own[purpose]

    def _open_key(self, subject: str, sealed: bytes | None) -> bytes | None:
        return unseal(self.master, sealed or b"", ["key", self.store, subject])

    def _enter(self, subject: str, key: bytes, store: str = "") -> bytes:
        """Keep a key, sealed by the master key, in place of an earlier one; returns it."""
        store = store or self.store
        sealed = seal(self.master, key, ["key", store, subject])
        self._db.execute("INSERT OR REPLACE INTO keys.key VALUES (?, ?, ?)", (store, subject, sealed))
        return key

    def destroy(self, subject: str, action: str) -> None:
        """Delete a subject's key, so that no copy of its record opens any more."""
        self._db.execute("DELETE FROM keys.key WHERE store = ? AND subject = ?", (self.store, subject))
        self.log(action, subject)

    def log(self, action: str, subject: str = "") -> None:
        """Add an entry to the log; its MAC covers the one before, so that a change is found."""
        if self._last is None:
            query = "SELECT number, mac FROM keys.log WHERE store = ? ORDER BY number DESC LIMIT 1"
            self._last = self._db.execute(query, (self.store,)).fetchone() or (0, "")
        entry = (self._last[0] + 1, datetime.now(UTC).isoformat(timespec="seconds"), action, subject)
        mac = self._mac(self._last[1], entry)
        self._db.execute("INSERT INTO keys.log VALUES (?, ?, ?, ?, ?, ?)", (self.store, *entry, mac))
        self._db.execute("UPDATE store SET logged = ?", entry[:1])
        self._last = (entry[0], mac)

    def entries(self) -> list[LogEntry]:
        """The log of the store, oldest first.

        Raises:
            StoreError: an entry was changed or taken out.
        """
        names = dict(self._db.execute("SELECT subject, name FROM enrolment"))
        query = "SELECT number, at, action, subject, mac FROM keys.log WHERE store = ? ORDER BY number"
        entries, before, last = [], "", 0
        for *entry, mac in self._db.execute(query, (self.store,)):
            if entry[0] != last + 1 or not hmac.compare_digest(mac, self._mac(before, entry)):
                raise StoreError(f"{self.path}: its log was changed at entry {last + 1}: {BRING_KEYS}")
            before, last = mac, entry[0]
            entries.append(LogEntry(entry[1], entry[2], entry[3], names.get(entry[3])))
        [logged] = self._db.execute("SELECT logged FROM store").fetchone() or [0]
        if logged > last:
            raise StoreError(f"{self.path}: its log ends at entry {last}, and had {logged}: {BRING_KEYS}")
        return entries

    def _mac(self, before: str, entry: Sequence[Any]) -> str:
        text = json.dumps([self.store, before, *entry]).encode()
        return hmac.digest(self._own_key("log"), text, "sha256").hex()


def read_masters(place: Place) -> list[bytes]:
    """The master key; two while another one takes its place, none where there is none yet.

    Raises:
        StoreError: it cannot be read, is damaged, or others may read it.
    """
    try:
        if place == "keyring":
            text = _in_keyring("get_password") or ""
        else:
            text = ""
            with suppress(FileNotFoundError), open(_master_file(), "rb") as file:
                if os.name != "nt" and os.fstat(file.fileno()).st_mode & 0o077:
                    raise StoreError(
                        f"{_master_file()}: others may read the master key; 'chmod 600' keeps it to its owner"
                    )
                text = file.read(1000).decode()
        keys = [bytes.fromhex(word) for word in text.split()]
    except OSError as error:
        raise StoreError(f"{_master_file()}: the master key cannot be read: {error}") from error
    except ValueError:
        keys = [b""]
    if any(len(key) != 32 for key in keys):
        raise StoreError(f"the master key in {_where(place)} is damaged: {BRING_KEYS}")
    return keys


def write_masters(place: Place, keys: Sequence[bytes]) -> None:
    """Keep the master key, or two while one takes the place of the other, for the owner only."""
    text = " ".join(key.hex() for key in keys)
    if place == "keyring":
        _in_keyring("set_password", text)
        return
    temporary = _master_file().with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(_master_file())


def _has_keyring() -> bool:
    """True where the system has a keyring that can be used; its package is of the extra ``serve``."""
    try:
        import keyring
    except ImportError:
        return False
    return bool(keyring.get_keyring().priority >= 1)


def _in_keyring(act: Literal["get_password", "set_password"], *words: str) -> Any:
    if not _has_keyring():
        raise MissingExtraError(
            "the master key of the enrolled speakers is in the keyring of the system, and there is none"
            " here, or no package that reads it: pip install 'farvox[serve]'"
        )
    import keyring
    from keyring.errors import KeyringError

    try:
        return getattr(keyring, act)("farvox", "master key", *words)
    except KeyringError as error:
        raise StoreError(f"the keyring of the system refuses the master key: {error}; unlock it") from error


def _master_file() -> Path:
    return keys_folder() / "master.key"


def _where(place: Place) -> str:
    return "the keyring of the system" if place == "keyring" else str(_master_file())


def _identity(key: bytes) -> str:
    return hashlib.sha256(b"farvox master key " + key).hexdigest()[:16]


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtraError(
            "enrolled speakers are sealed by the package cryptography: pip install cryptography"
        ) from error
    return AESGCM(key)
