"""What protects the templates of enrolled speakers, and from whom."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from farvox.cli.main import main
from farvox.errors import MissingExtraError, StoreError
from farvox.metrics.detection import det_curve, equal_error_rate
from farvox.verifier.enrolment import Enrolment
from farvox.verifier.store import SqliteStore
from farvox.verifier.vault import rotation

DIGEST = "d" * 64
DIM = 192
PLAIN = Path(__file__).parents[1] / "golden/465a09f/speakers.sqlite"  # of before templates were sealed


def voices(number: int, takes: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Embeddings [speaker, take, E] of length 1, two of one speaker of cosine 0.6 on average."""
    rng = np.random.default_rng(seed)
    own, other = rng.standard_normal((number, 1, dim)), rng.standard_normal((number, takes, dim))
    mixed = np.sqrt(0.6) * own + np.sqrt(0.4) * other
    return (mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)).astype(np.float32)


def enrolment(name: str, template_E: np.ndarray, **about) -> Enrolment:
    fixed = {"model_digest": DIGEST, "model_name": "m", "num_recordings": 3, "seconds": 12.5}
    return Enrolment(name=name, template_E=template_E, **{**fixed, **about})


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.setenv("FARVOX_KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


@pytest.fixture
def path(tmp_path, keys):
    return tmp_path / "data" / "speakers.sqlite"


@pytest.fixture
def three(path):
    """A store of ann, ben and cy, closed, and their templates by name."""
    templates = dict(zip(("ann", "ben", "cy"), voices(3, 1)[:, 0], strict=True))
    with SqliteStore(path) as store:
        store.add(*(enrolment(name, template) for name, template in templates.items()))
    return templates


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def query(path: Path, statement: str) -> list:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement).fetchall()


def names(path: Path) -> list[str]:
    with SqliteStore(path) as store:
        return [each.name for each in store.listing()]


def auc(mated: np.ndarray, strangers: np.ndarray) -> float:
    """Probability that a mated pair scores higher than a pair of strangers."""
    ranks = np.argsort(np.argsort(np.concatenate([mated, strangers])))[: len(mated)]
    return float((ranks.sum() - len(mated) * (len(mated) - 1) / 2) / len(mated) / len(strangers))


# The rotation


@pytest.mark.parametrize("dim", [1, 2, 64, 192, 512])
def test_a_rotation_keeps_lengths_and_angles(dim):
    matrix = rotation(b"k" * 32, DIGEST, dim)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-13)


def test_a_rotation_is_the_same_on_every_machine():
    found = rotation(bytes(range(32)), DIGEST, 3)
    expected = [
        [0.5278257105441568, -0.7555016350319224, -0.38809444566065104],
        [0.061420356807181414, 0.4896851198006259, -0.8697333057986941],
        [0.847129009689926, 0.43523070078975157, 0.3048715762937357],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    others = (rotation(bytes(32), DIGEST, 3), rotation(bytes(range(32)), "e" * 64, 3))
    assert all(np.abs(other - found).max() > 0.1 for other in others)


def test_the_eer_is_the_same_with_the_rotation_and_without(path):
    enrol_NE, *takes = voices(100, 4, dim=32).swapaxes(0, 1)  # of few dimensions, so that there are errors
    is_target = np.eye(100, dtype=bool)
    with SqliteStore(path) as store:
        store.add(*(enrolment(f"{n:03}", row_E) for n, row_E in enumerate(enrol_NE)))
        rotated, plain = [], []
        for probes_NE in takes:
            scores = [store.best(probe_E, DIGEST, top=100) for probe_E in probes_NE]
            rotated.append([[score for _, score in sorted(each)] for each in scores])
            plain.append(probes_NE.astype(np.float64) @ enrol_NE.astype(np.float64).T)
    rotated_x, plain_x = np.array(rotated), np.array(plain)
    labels = np.broadcast_to(is_target, rotated_x.shape)
    with_it, without = (
        equal_error_rate(det_curve(x.ravel(), labels.ravel()))[0] for x in (rotated_x, plain_x)
    )
    assert 0.01 < without < 0.4
    assert abs(with_it - without) <= 1e-6
    np.testing.assert_allclose(rotated_x, plain_x, atol=1e-6)


def sorted_sizes(templates_NE: np.ndarray) -> np.ndarray:
    """What a permutation with signs would leave of a template."""
    sizes = np.sort(np.abs(templates_NE), axis=1)
    centred = sizes - sizes.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def test_templates_of_one_person_under_two_keys_are_not_linked():
    cosines, sizes = ([], []), ([], [])
    for n in range(40):
        first_NE, second_NE = voices(200, 2, seed=n).swapaxes(0, 1)
        assert auc((first_NE * second_NE).sum(1), (first_NE * np.roll(second_NE, 1, 0)).sum(1)) > 0.99
        one_NE = first_NE @ rotation(b"one%29d" % n, DIGEST, DIM).T
        other_NE = second_NE @ rotation(b"two%29d" % n, DIGEST, DIM).T
        for found, (a, b) in (
            (cosines, (one_NE, other_NE)),
            (sizes, (sorted_sizes(one_NE), sorted_sizes(other_NE))),
        ):
            found[0].append((a * b).sum(1))
            found[1].append((a * np.roll(b, 1, axis=0)).sum(1))
    for mated, strangers in (cosines, sizes):
        assert abs(auc(np.concatenate(mated), np.concatenate(strangers)) - 0.5) <= 0.02


# What is in the files


def test_no_byte_of_a_template_is_left_after_it_is_forgotten(path, keys):
    rows = voices(300, 1, seed=1)[:, 0]
    order = np.random.default_rng(0).permutation(300)
    with SqliteStore(path) as store:
        for part in np.array_split(order, 6):
            store.add(*(enrolment(f"{n * 7919 % 1000:03} {n}", rows[n]) for n in part))
        gone = [f"{n * 7919 % 1000:03} {n}" for n in order[::60]]
        secret = []
        with closing(sqlite3.connect(path)) as db:
            db.execute("ATTACH ? AS keys", (str(keys / "subjects.keys"),))
            for name in gone:
                found = "SELECT template, sealed FROM enrolment JOIN keys.key USING (subject) WHERE name = ?"
                secret += db.execute(found, (name,)).fetchone()
        content = path.read_bytes() + (keys / "subjects.keys").read_bytes()
        assert all(blob[first : first + 16] in content for blob in secret for first in (0, len(blob) - 16))
        store.add(enrolment(gone[0], rows[0]), replace=True)
        for name in gone:
            assert store.remove(name) == 1
    secret += [rows[order[n]].tobytes() for n in range(0, 300, 60)]
    content = b"".join(file.read_bytes() for folder in (path.parent, keys) for file in folder.iterdir())
    assert not any(
        blob[first : first + 16] in content for blob in secret for first in range(0, len(blob) - 15, 16)
    )
    assert not any(name.encode() in content for name in gone)
    assert {file.name for file in (*path.parent.iterdir(), *keys.iterdir())} == {
        "speakers.sqlite", "subjects.keys", "master.key",
    }  # fmt: skip


def test_nothing_in_the_files_resembles_a_template(path, keys, three):
    content = path.read_bytes() + (keys / "subjects.keys").read_bytes()
    rotated = [template @ rotation(b"0" * 32, DIGEST, DIM) for template in three.values()]
    for template in (*three.values(), *rotated):
        assert template.astype("<f4").tobytes()[:8] not in content
    stream = np.frombuffer(content[: len(content) // 4 * 4], "<f4")
    windows = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(stream, posinf=0, neginf=0), DIM)
    unit = windows / np.maximum(np.linalg.norm(windows.astype(np.float64), axis=1, keepdims=True), 1e-30)
    assert all(np.abs(unit @ template).max() < 0.6 for template in three.values())


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_the_keys_are_for_their_owner_only_and_loose_ones_are_refused(path, keys, three):
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in keys.iterdir()} == {0o600}
    (keys / "master.key").chmod(0o640)
    with pytest.raises(StoreError, match=r"master\.key: others may read .*chmod 600"):
        names(path)
    (keys / "master.key").chmod(0o600)
    assert names(path) == ["ann", "ben", "cy"]


# Older copies


def test_a_backup_of_before_opens_the_forgotten_no_more_and_is_cleaned(path, three):
    backup = path.read_bytes()
    with SqliteStore(path) as store:
        store.remove("ann")
    path.write_bytes(backup)
    with SqliteStore(path) as store:
        assert [name for name, _ in store.best(three["ann"], DIGEST, top=9)] != ["ann", "ben", "cy"]
        assert {name for name, _ in store.best(three["ann"], DIGEST, top=9)} == {"ben", "cy"}
        assert [each.name for each in store.listing()] == ["ben", "cy"]
        assert [each.num_speakers for each in store.models()] == [2]
        assert [each.action for each in store.log()][-1] == "forget"
    assert b"ann" not in path.read_bytes()


def test_a_backup_says_whom_it_lacks_and_goes_on_without_them_when_told_to(path, three):
    backup = path.read_bytes()
    with SqliteStore(path) as store:
        store.add(enrolment("dan", voices(1, 1, seed=5)[0, 0]))
        store.add(enrolment("ben", voices(1, 1, seed=6)[0, 0]), replace=True)
    path.write_bytes(backup)
    with SqliteStore(path) as store:
        for use in (store.listing, store.models, lambda: store.best(three["ann"], DIGEST), store.log):
            with pytest.raises(StoreError, match=r"2 enrolments are missing: .*'farvox rekey'"):
                use()
        assert store.rekey() == 2  # the earlier voice of ben was replaced, and is not brought back
        assert [each.name for each in store.listing()] == ["ann", "cy"]
        assert [each.action for each in store.log()].count("lost") == 2


def test_a_copy_of_before_new_keys_opens_no_more(path, three):
    backup = path.read_bytes()
    with SqliteStore(path) as store:
        assert store.rekey() == 3
        [(name, score)] = store.best(three["ben"], DIGEST)
        assert (name, score) == ("ben", pytest.approx(1, abs=1e-6))
    path.write_bytes(backup)
    with pytest.raises(StoreError, match=r"'ann' does not fit its key: .*'farvox rekey'"):
        names(path)


def test_without_its_keys_a_store_does_not_open(path, keys, three, monkeypatch):
    monkeypatch.setenv("FARVOX_KEYS", str(keys.with_name("none")))
    with pytest.raises(StoreError, match=r"its keys are not in .*none: set FARVOX_KEYS"):
        names(path)
    assert not keys.with_name("none").exists()
    with SqliteStore(path.with_name("other")) as other:  # in the other folder, keys of another store
        other.add(enrolment("x", three["ann"]))
    with pytest.raises(StoreError, match=r"3 of its enrolments have no key in .*none: set FARVOX_KEYS"):
        names(path)
    monkeypatch.setenv("FARVOX_KEYS", str(keys))
    assert names(path) == ["ann", "ben", "cy"]
    shutil.copy(keys / "master.key", keys / "away")
    (keys / "master.key").write_text("00" * 32)  # as it was made: for its owner only
    with pytest.raises(StoreError, match=r"master key of its keys is not in .*master\.key: set FARVOX_KEYS"):
        names(path)
    (keys / "master.key").write_text("no key")
    with pytest.raises(StoreError, match=r"master key in .*master\.key is damaged"):
        names(path)


# Damage, and who changes a record


SWAP = "UPDATE enrolment SET {0} = (SELECT {0} FROM enrolment AS o WHERE o.name = 'ben') WHERE name = 'ann'"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE enrolment SET name = 'eve' WHERE name = 'ann'",
        "UPDATE enrolment SET model_name = 'n' WHERE name = 'ann'",
        "UPDATE enrolment SET num_recordings = 30 WHERE name = 'ann'",
        "UPDATE enrolment SET seconds = 12.25 WHERE name = 'ann'",
        "UPDATE enrolment SET seconds = x'00' WHERE name = 'ann'",
        "UPDATE enrolment SET enrolled_at = '2020-01-01T00:00:00+00:00' WHERE name = 'ann'",
        "UPDATE enrolment SET model = 99 WHERE name = 'ann'",
        "UPDATE enrolment SET template = x'' WHERE name = 'ann'",
        "UPDATE enrolment SET template = CAST(substr(template, 1, 100) || x'00' AS BLOB)",
        "UPDATE model SET digest = 'e'",
        "UPDATE model SET dim = 64",
        SWAP.format("template"),
        SWAP.format("subject"),
    ],
)
def test_a_record_that_was_changed_is_refused_and_can_be_forgotten(path, three, statement):
    change(path, statement)
    with SqliteStore(path) as store:
        for use in (store.listing, lambda: store.best(three["ann"], DIGEST), store.rekey):
            if "model SET" in statement and use not in (store.listing, store.rekey):
                continue  # nobody is enrolled with the model that is asked for
            with pytest.raises(StoreError, match=r"does not fit its key|missing"):
                use()
        while found := query(path, "SELECT name FROM enrolment"):
            with suppress(StoreError):  # it shared its key with another, which was forgotten
                store.remove(found[0][0])
        assert (store.rekey(), store.listing()) == (0, [])


def test_a_record_of_another_store_is_refused(path, keys, three):
    with SqliteStore(path.with_name("other")) as other:
        other.add(enrolment("eve", three["ann"]))
    columns = "subject, model, name, model_name, num_recordings, seconds, enrolled_at, template"
    change(
        path,
        f"ATTACH '{path.with_name('other')}' AS other",
        f"INSERT INTO enrolment ({columns}) SELECT {columns} FROM other.enrolment",
    )
    with pytest.raises(StoreError, match="1 of its enrolments have no key"):
        names(path)


def test_a_record_that_was_taken_out_is_missed(path, three):
    change(path, "DELETE FROM enrolment WHERE name = 'ann'")
    with pytest.raises(StoreError, match="1 enrolments are missing"):
        names(path)


def test_damage_to_any_byte_of_a_record_or_key_is_noticed(path, keys, three):
    for file, blobs in (
        (path, query(path, "SELECT template FROM enrolment")),
        (keys / "subjects.keys", query(keys / "subjects.keys", "SELECT sealed FROM key")),
    ):
        content = file.read_bytes()
        for (blob,) in blobs:
            for place in (0, 11, len(blob) // 2, len(blob) - 1):
                damaged = bytearray(content)
                damaged[content.index(blob) + place] ^= 1
                file.write_bytes(damaged)
                with (
                    pytest.raises(StoreError, match=r"does not fit its key|is damaged"),
                    SqliteStore(path) as store,
                ):
                    store.best(three["ann"], DIGEST)
                    store.log()
        file.write_bytes(content)
    assert names(path) == ["ann", "ben", "cy"]


# The log


def test_the_log_says_what_was_done_and_keeps_no_name_of_the_forgotten(path, keys, three):
    with SqliteStore(path) as store:
        store.add(enrolment("ann", three["cy"]), replace=True)
        store.remove("ben")
        store.rekey()
        log = store.log()
        assert [each.action for each in log] == [
            "enrol", "enrol", "enrol", "replace", "enrol", "forget", "rekey",
        ]  # fmt: skip
        assert [each.name for each in log] == [None, None, "cy", None, "ann", None, None]
        assert log[0].subject == log[3].subject != log[4].subject
    [(count,)] = query(keys / "subjects.keys", "SELECT count(*) FROM log WHERE length(subject) > 32")
    assert count == 0


def test_the_log_is_only_added_to_and_a_change_is_found(path, keys, three):
    file = keys / "subjects.keys"
    for statement in ("UPDATE log SET action = 'forget'", "DELETE FROM log"):
        with pytest.raises(sqlite3.IntegrityError, match="the log is only added to"):
            change(file, statement)
    content = file.read_bytes()
    for statement in (
        "UPDATE log SET at = '2020-01-01T00:00:00+00:00' WHERE number = 2",
        "DELETE FROM log WHERE number = 1",
        "DELETE FROM log WHERE number = 3",
    ):
        change(file, "DROP TRIGGER no_update", "DROP TRIGGER no_delete", statement)
        with (
            SqliteStore(path) as store,
            pytest.raises(StoreError, match=r"its log (was changed|ends) at entry"),
        ):
            store.log()
        file.write_bytes(content)
    with SqliteStore(path) as store:
        assert len(store.log()) == 3


def test_who_was_enrolled_long_ago_is_swept(path, three):
    with SqliteStore(path) as store:
        store.add(enrolment("old", three["ann"], enrolled_at="2020-01-01T00:00:00+00:00"))
        assert store.sweep(10_000) == []
        assert store.sweep(365) == ["old"]
        assert [each.name for each in store.listing()] == ["ann", "ben", "cy"]
        assert store.log()[-1].action == "sweep"
        assert store.sweep(0) == [] or not store.listing()


# Keys


def test_new_keys_leave_other_stores_and_open_ones_as_they_were(path, keys, three):
    with SqliteStore(path) as store, SqliteStore(path) as same, SqliteStore(path.with_name("o")) as other:
        other.add(enrolment("eve", three["ben"]))
        before = same.best(three["ann"], DIGEST, top=3)
        master = (keys / "master.key").read_text()
        for _ in range(3):
            assert store.rekey() == 3
        assert (keys / "master.key").read_text() != master
        again = same.best(three["ann"], DIGEST, top=3)
        assert [name for name, _ in again] == [name for name, _ in before]
        np.testing.assert_allclose([s for _, s in again], [s for _, s in before], atol=1e-6)
        assert other.best(three["ben"], DIGEST)[0][0] == "eve"
        other.rekey()
        assert len(same.listing()) == len(store.listing()) == 3


@pytest.mark.parametrize("verb", ["rekey", "seal"])
def test_a_process_that_is_killed_while_keys_change_leaves_a_store(path, three, verb):
    if verb == "seal":
        shutil.copy(PLAIN, path)
    code = """
        import shutil, sys
        from farvox.verifier.store import SqliteStore
        path, plain = sys.argv[1:]
        print("ready", flush=True)
        while True:
            if plain:
                shutil.copy(plain, path)
            SqliteStore(path).rekey()
    """
    for delay in (0.0, 0.01, 0.03, 0.07, 0.13):
        words = [sys.executable, "-c", textwrap.dedent(code), str(path), str(PLAIN) if verb == "seal" else ""]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        if verb == "rekey":
            with SqliteStore(path) as store:
                assert [name for name, _ in store.best(three["ben"], DIGEST)] == ["ben"]
                assert len(store.log()) >= 3
        elif path.stat().st_size == PLAIN.stat().st_size:  # it was not killed while the file was copied
            assert len(names(path)) == 2


BACKEND = """
import json, os, pathlib
from keyring.backend import KeyringBackend

class Backend(KeyringBackend):
    priority = 5
    file = pathlib.Path(os.environ["KEYRING_FILE"])
    def get_password(self, service, username):
        return json.loads(self.file.read_text()).get(service + username) if self.file.exists() else None
    def set_password(self, service, username, password):
        self.file.write_text(json.dumps({service + username: password}))
    def delete_password(self, service, username):
        self.file.unlink()
"""


def test_the_master_key_lies_in_the_keyring_of_the_system_where_there_is_one(path, tmp_path):
    pytest.importorskip("keyring")
    (tmp_path / "ownring.py").write_text(BACKEND)
    code = """
        import sys
        import numpy as np
        from farvox.verifier.enrolment import Enrolment
        from farvox.verifier.store import SqliteStore
        with SqliteStore(sys.argv[1]) as store:
            if not store.listing():
                store.add(Enrolment(name="ann", template_E=np.ones(4, np.float32), model_digest="d",
                                    model_name="m", num_recordings=1, seconds=1.0))
            store.rekey()
            assert [each.name for each in store.listing()] == ["ann"]
    """
    env = {name: value for name, value in os.environ.items() if name != "FARVOX_KEYS"}
    env |= {"XDG_CONFIG_HOME": str(tmp_path / "config"), "KEYRING_FILE": str(tmp_path / "ring.json")}
    ring = {
        "PYTHON_KEYRING_BACKEND": "ownring.Backend",
        "PYTHONPATH": f"{tmp_path}:{env.get('PYTHONPATH', '')}",
    }
    words = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    for _ in range(2):
        subprocess.run(words, check=True, env=env | ring)
    folder = tmp_path / "config" / "farvox" / "keys"
    assert [file.name for file in folder.iterdir()] == ["subjects.keys"]
    assert len((tmp_path / "ring.json").read_text()) < 120  # one key, not two
    none = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    done = subprocess.run(words, env=env | none, capture_output=True, text=True)
    assert done.returncode and "in the keyring of the system, and there is none here" in done.stderr


def test_without_the_package_that_seals_the_message_says_which(path, three, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingExtraError, match="pip install cryptography"):
        names(path)


# A store of before


def test_a_store_of_before_is_sealed_and_no_plain_template_is_left(path, keys, tmp_path):
    path.parent.mkdir()
    shutil.copy(PLAIN, path)
    [*rows] = query(path, "SELECT name, template, digest FROM enrolment JOIN model ON model.id = model")
    notes = []
    with SqliteStore(path, note=notes.append) as store:
        assert [each.name for each in store.listing()] == sorted(name for name, _, _ in rows)
        for name, blob, digest in rows:
            template_E = np.frombuffer(blob, "<f4")
            assert store.best(template_E, digest)[0] == (name, pytest.approx(1, abs=1e-6))
        assert [each.action for each in store.log()] == ["seal"]
    assert len(notes) == 1 and str(keys) in notes[0]
    content = b"".join(file.read_bytes() for file in (*path.parent.iterdir(), *keys.iterdir()))
    for _, blob, _ in rows:
        assert not any(blob[first : first + 16] in content for first in range(0, len(blob), 16))
    assert [file.name for file in path.parent.iterdir()] == ["speakers.sqlite"]


def test_a_copy_of_a_store_of_before_is_kept_where_it_is_asked_for(path, capsys):
    path.parent.mkdir()
    shutil.copy(PLAIN, path)
    with SqliteStore(path) as store:
        assert store.rekey(keep_copy=True) == 2
        assert stat.S_IMODE(store.copy_path.stat().st_mode) == 0o600
        everything = "SELECT * FROM enrolment ORDER BY id"
        assert query(store.copy_path, everything) == query(PLAIN, everything)
        store.copy_path.rename(store.copy_path.with_name("away"))
    shutil.copy(PLAIN, path)
    assert main(["rekey", "--store", str(path), "--keep-copy"]) == 0
    told = capsys.readouterr()
    assert told.out == "2 enrolments have new keys\n"
    assert "speakers.sqlite.plain has plain templates" in told.err and "are sealed now" in told.err
    shutil.copy(PLAIN, path)
    with (
        SqliteStore(path) as store,
        pytest.raises(StoreError, match=r"\.plain: is there already, .*move it away"),
    ):
        store.rekey(keep_copy=True)
    assert query(path, everything) == query(PLAIN, everything)  # nothing was changed


def test_a_damaged_store_of_before_is_left_as_it_was(path):
    path.parent.mkdir()
    shutil.copy(PLAIN, path)
    change(path, "UPDATE enrolment SET template = x'0011' WHERE id = 1")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="it is damaged"):
        names(path)
    assert path.read_bytes() == before


def test_a_zero_template_of_a_store_of_before_is_named_and_can_be_forgotten(path):
    path.parent.mkdir()
    shutil.copy(PLAIN, path)
    change(path, "UPDATE enrolment SET template = zeroblob(length(template)) WHERE id = 1")
    [(name, digest, dim)] = query(
        path, "SELECT name, digest, dim FROM enrolment, model WHERE enrolment.id = 1"
    )
    with SqliteStore(path) as store:
        probe_E = np.ones(dim, np.float32)
        with pytest.raises(
            StoreError, match=rf"'{name}' is damaged \(zero or not finite\); forget and enrol"
        ):
            store.best(probe_E, digest)
        store.remove(name)
        assert len(store.best(probe_E, digest, top=9)) == 1
        store.add(enrolment(name, probe_E, model_digest=digest))
        assert store.best(probe_E, digest) == [(name, pytest.approx(1))]


def test_another_file_as_that_of_the_keys_is_left_alone(path, keys):
    keys.mkdir()
    change(keys / "subjects.keys", "CREATE TABLE mine (a)")
    before = (keys / "subjects.keys").read_bytes()
    with SqliteStore(path) as store:
        with pytest.raises(StoreError, match=r"subjects\.keys: it is not a file of keys: move it away"):
            store.add(enrolment("ann", np.ones(4, np.float32)))
        assert (keys / "subjects.keys").read_bytes() == before
        (keys / "subjects.keys").rename(keys / "away")
        store.add(enrolment("ann", np.ones(4, np.float32)))
    (keys / "subjects.keys").write_text("no keys" * 1000)
    with pytest.raises(StoreError, match=r"subjects\.keys: it is not a store"):
        names(path)


@pytest.mark.slow
def test_the_keys_of_10_000_speakers_are_renewed_in_5_s(path):
    rows = voices(10_000, 1)[:, 0]
    with SqliteStore(path) as store:
        store.add(*(enrolment(f"{n:05}", row_E) for n, row_E in enumerate(rows)))
        begin = time.process_time()
        assert store.rekey() == 10_000
        assert time.process_time() - begin < 5
        assert store.best(rows[77], DIGEST)[0][0] == "00077"
