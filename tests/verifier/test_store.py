"""The store behind enrol, identify, forget and speakers; other processes are real ones."""

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from farvox.errors import StoreError
from farvox.verifier.database import APPLICATION_ID
from farvox.verifier.enrolment import Enrolled, Enrolment, ModelCount
from farvox.verifier.store import Gallery, SpeakerStore, SqliteStore, Templates, default_store_path

DIGEST, OTHER = "d" * 64, "e" * 64


def template(seed: int, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def enrolment(name: str, seed: int = 0, *, dim: int = 16, digest: str = DIGEST) -> Enrolment:
    return Enrolment(
        name=name,
        template_E=template(seed, dim),
        model_digest=digest,
        model_name=f"model-{digest[0]}",
        num_recordings=3,
        seconds=12.5,
        enrolled_at="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("FARVOX_KEYS", str(tmp_path / "keys"))
    return tmp_path / "farvox" / "speakers.sqlite"


@pytest.fixture
def store(path):
    with SqliteStore(path) as opened:
        yield opened


def start(code: str, *words: object) -> subprocess.Popen:
    """Another process that has imported what the tests use, `template` and `enrolment` included."""
    prelude = """
        import os, sys
        import numpy as np
        from farvox.errors import StoreError
        from farvox.verifier.enrolment import Enrolment
        from farvox.verifier.store import SqliteStore

        def template(seed):
            return np.random.default_rng(seed).standard_normal(16).astype(np.float32)

        def enrolment(name, seed=0):
            return Enrolment(name=name, template_E=template(seed), model_digest="d" * 64, 
                             model_name="model-d", num_recordings=3, seconds=12.5)
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


# What a store does


def test_enrolled_speakers_are_found_again(store):
    store.add(*(enrolment(f"s{n}", n) for n in range(20)))
    [(name, score)] = store.best(template(7) * 3, DIGEST)
    assert (name, pytest.approx(1, abs=1e-7)) == ("s7", score)
    assert store.best(template(7), DIGEST, top=99)[0] == (name, pytest.approx(score, abs=1e-12))
    assert len(store.best(template(7), DIGEST, top=99)) == 20


def test_an_enrolment_survives_the_disk(store, path):
    given = enrolment("Amélie", 3)
    store.add(given)
    store.close()
    with SqliteStore(path) as again:
        [listed] = again.listing()
    assert listed == Enrolled(
        name="Amélie",
        model_digest=DIGEST,
        model_name="model-d",
        num_recordings=3,
        seconds=12.5,
        enrolled_at="2026-01-02T03:04:05+00:00",
    )
    assert given.template_E.tobytes() not in path.read_bytes()


def test_a_store_is_what_the_interface_says(store):
    interface: SpeakerStore = store
    assert interface.listing() == []


def test_a_name_is_enrolled_once_with_a_model(store):
    store.add(enrolment("Anna", 1))
    with pytest.raises(StoreError, match=r"'Anna' is enrolled with model-d already: forget .*--replace"):
        store.add(enrolment(" Anna", 2))
    store.add(enrolment("Anna", 2), replace=True)
    store.add(enrolment("Anna", 5, digest=OTHER))
    assert store.best(template(2), DIGEST) == [("Anna", pytest.approx(1))]
    assert len(store.listing()) == 2


def test_composed_and_decomposed_names_are_one(store):
    store.add(enrolment("Ame\u0301lie"))
    with pytest.raises(StoreError, match="already"):
        store.add(enrolment("Am\u00e9lie"))
    assert store.remove("Ame\u0301lie ") == 1


def test_all_are_enrolled_or_none(store):
    store.add(enrolment("b"))
    with pytest.raises(StoreError, match="'b'"):
        store.add(enrolment("a"), enrolment("b"), enrolment("c"))
    assert [each.name for each in store.listing()] == ["b"]


def test_the_listing_is_sorted_by_name(store):
    names = ["Zoë", "anna", "Bob", "李雷", "Élise", "bob 2", "🙂"]
    store.add(*(enrolment(name, n) for n, name in enumerate(names)))
    assert [each.name for each in store.listing()] == sorted(names)


def test_forgetting_takes_the_enrolments_of_all_models(store):
    store.add(enrolment("Anna"), enrolment("Anna", digest=OTHER), enrolment("Bob"))
    assert store.remove("Anna") == 2
    assert [each.name for each in store.listing()] == ["Bob"]
    assert store.models() == [ModelCount(DIGEST, "model-d", 1)]


def test_an_unknown_name_is_answered_with_the_nearest(store):
    with pytest.raises(StoreError, match="nobody is enrolled"):
        store.remove("Anna")
    store.add(enrolment("Anna"), enrolment("Bob"))
    with pytest.raises(StoreError, match="'anna k' is not enrolled; did you mean 'Anna'"):
        store.remove("anna k")
    with pytest.raises(StoreError, match=r"'xyz' is not enrolled$"):
        store.remove("xyz")


def test_embeddings_of_one_model_only_are_compared_and_the_others_counted(store):
    store.add(
        enrolment("a", 1), enrolment("b", 2, digest=OTHER, dim=5), enrolment("c", 3, digest=OTHER, dim=5)
    )
    assert [name for name, _ in store.best(template(1), DIGEST, top=9)] == ["a"]
    assert sorted(name for name, _ in store.best(template(2, 5), OTHER, top=9)) == ["b", "c"]
    assert store.best(template(1), "f" * 64) == []
    assert store.models() == [ModelCount(DIGEST, "model-d", 1), ModelCount(OTHER, "model-e", 2)]


def test_embeddings_that_do_not_fit_are_refused(store):
    store.add(enrolment("a"))
    with pytest.raises(StoreError, match="of 'b' has 17 dimensions, and those of its model 16"):
        store.add(enrolment("b", dim=17))
    with pytest.raises(StoreError, match="has 17 dimensions"):
        store.best(template(0, 17), DIGEST)
    for emb_E in (np.zeros(16), np.full(16, np.nan), np.ones((1, 16)), np.ones(16, int)):
        with pytest.raises(StoreError, match="the embedding to identify is"):
            store.best(emb_E, DIGEST)
    with pytest.raises(StoreError, match="at least one"):
        store.best(template(0), DIGEST, top=0)


def test_every_change_is_seen_by_the_next_search(store, path):
    rng = random.Random(0)
    enrolled: dict[str, int] = {}
    with SqliteStore(path) as other:
        for step in range(80):
            writer = rng.choice([store, other])
            if enrolled and rng.random() < 0.4:
                name = rng.choice(sorted(enrolled))
                if rng.random() < 0.5:
                    assert writer.remove(name) == 1
                    del enrolled[name]
                else:
                    writer.add(enrolment(name, step), replace=True)
                    enrolled[name] = step
            else:
                writer.add(enrolment(f"s{step:03}", step))
                enrolled[f"s{step:03}"] = step
            probe = template(1000 + step)
            unit = {name: template(seed) / np.linalg.norm(template(seed)) for name, seed in enrolled.items()}
            cosine = {name: float(row @ probe) / np.linalg.norm(probe) for name, row in unit.items()}
            for reader in (store, other):
                found = dict(reader.best(probe, DIGEST, top=200))
                assert found == pytest.approx(cosine, abs=1e-6)


# Personal data


def test_nothing_is_made_by_those_who_only_read(store, path):
    assert (store.listing(), store.models(), store.best(template(0), DIGEST)) == ([], [], [])
    with pytest.raises(StoreError):
        store.remove("Anna")
    assert not path.parent.exists()
    store.add(enrolment("Anna"))
    assert [each.name for each in store.listing()] == ["Anna"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_the_file_is_for_its_owner_only(store, path):
    before = os.umask(0)
    try:
        store.add(enrolment("Anna"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_folder_holds_one_file(store, path):
    store.add(enrolment("Anna"), enrolment("Bob"))
    store.best(template(0), DIGEST)
    store.remove("Anna")
    assert [file.name for file in path.parent.iterdir()] == ["speakers.sqlite"]


def test_no_byte_of_a_removed_speaker_is_left(store, path):
    rng = random.Random(1)
    kept = []
    for n in range(2000):  # in no order of names, so that SQLite moves them between pages
        kept.append(enrolment(f"{rng.getrandbits(32):08x}-{n:04}", n, dim=192))
    store.add(*kept)
    # Some have left a copy where they were before; secure_delete alone does not find it.
    content = path.read_bytes()
    kept.sort(key=lambda each: content.count(each.name.encode()))
    removed = kept[-5:] + kept[:5]
    del kept[-5:], kept[:5]
    for each in removed:
        assert store.remove(each.name) == 1
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for each in removed:
        template_bytes = each.template_E.tobytes()
        parts = [template_bytes[first : first + 16] for first in range(0, len(template_bytes), 16)]
        assert not any(part in content for part in [each.name.encode(), *parts])
    assert all(each.name.encode() in content for each in kept)


def test_speakers_are_kept_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FARVOX_DATA", str(tmp_path / "data"))
    assert default_store_path() == tmp_path / "data" / "speakers.sqlite"
    assert SqliteStore().path == (tmp_path / "data" / "speakers.sqlite").resolve()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FARVOX_DATA", "")
    assert (default_store_path().parent.name, default_store_path().name) == ("farvox", "speakers.sqlite")


# Several processes and threads


@pytest.mark.slow
def test_two_processes_enrol_while_another_identifies(path):
    writer = """
        who, path = sys.argv[1:]
        with SqliteStore(path) as store:
            for n in range(200):
                store.add(enrolment(f"{who}{n:03}", n + 1000 * ord(who)))
    """
    reader = """
        path, = sys.argv[1:]
        seen = 0
        with SqliteStore(path) as store:
            while seen < 400:
                found = store.best(template(3), "d" * 64, top=1000)
                assert len(found) >= seen, (len(found), seen)
                seen = len(found)
                assert seen <= len(store.listing())
    """
    for process in [start(reader, path), start(writer, "a", path), start(writer, "b", path)]:
        with process:
            ended(process)
    with SqliteStore(path) as store:
        assert [each.name for each in store.listing()] == [f"{who}{n:03}" for who in "ab" for n in range(200)]
        for who in "ab":
            assert store.best(template(7 + 1000 * ord(who)), DIGEST)[0][0] == f"{who}007"


def test_all_of_several_processes_may_be_the_first(path):
    first = "SqliteStore(sys.argv[2]).add(enrolment(sys.argv[1]))"
    processes = [start(first, f"p{n}", path) for n in range(3)]
    for process in processes:
        ended(process)
    with SqliteStore(path) as store:
        assert [each.name for each in store.listing()] == [f"p{n}" for n in range(3)]


def test_of_two_that_enrol_one_name_one_is_refused(path):
    race = """
        try:
            SqliteStore(sys.argv[1]).add(enrolment("Anna"))
        except StoreError as error:
            assert "already" in str(error)
            print("refused")
    """
    processes = [start(race, path) for _ in range(3)]
    assert sorted(ended(process) for process in processes) == ["", "refused\n", "refused\n"]


def test_a_removal_by_another_process_is_seen_at_once(store, path):
    store.add(enrolment("Anna", 1), enrolment("Bob", 2))
    assert store.best(template(1), DIGEST)[0][0] == "Anna"
    ended(start("assert SqliteStore(sys.argv[1]).remove('Anna') == 1", path))
    assert [name for name, _ in store.best(template(1), DIGEST, top=9)] == ["Bob"]


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.2])
def test_a_process_that_is_killed_while_it_writes_leaves_a_store(path, delay):
    code = """
        with SqliteStore(sys.argv[1]) as store:
            for n in range(100000):
                store.add(enrolment(f"s{n:05}", n))
                print(n, flush=True)
                if n % 5 == 4:
                    store.remove(f"s{n - 2:05}")
                    print("removed", n - 2, flush=True)
    """
    with start(code, path) as process:
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        lines = ["0", *process.stdout.read().split("\n")]
    added = {int(line) for line in lines if line.isdigit()}
    gone = {int(line.split()[1]) for line in lines if line.startswith("removed ") and line.split()[1:]}
    with SqliteStore(path) as store:
        names = {each.name for each in store.listing()}
        missing = {f"s{n:05}" for n in added - gone} - names
        assert missing <= {f"s{max(added) - 2:05}"}  # it may have been removed and not yet reported
        assert len(names - {f"s{n:05}" for n in added}) <= 1
        assert len(store.best(template(0), DIGEST, top=10**6)) == len(names)
        store.add(enrolment("after"))
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_error_explains_a_wait_that_was_too_long(store, path):
    store.add(enrolment("Anna"))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with (
        SqliteStore(path, busy_seconds=0.1) as impatient,
        pytest.raises(StoreError, match=r"speakers\.sqlite: another process keeps it locked"),
    ):
        impatient.add(enrolment("Cy"))
    waiting = threading.Thread(target=store.add, args=(enrolment("Bob"),))
    waiting.start()
    time.sleep(0.2)
    blocker.execute("COMMIT")
    blocker.close()
    waiting.join()
    with SqliteStore(path, busy_seconds=0.1) as impatient:  # the remedy: again, when that has ended
        impatient.add(enrolment("Cy"))
    assert [each.name for each in store.listing()] == ["Anna", "Bob", "Cy"]


def test_threads_share_a_store(store):
    failures: list[BaseException] = []

    def work(who: int) -> None:
        try:
            for n in range(9):
                seed = 100 * who + n
                store.add(enrolment(f"t{who}-{n:02}", seed))
                assert store.best(template(seed), DIGEST)[0][0] == f"t{who}-{n:02}"
                if n % 3 == 2:
                    assert store.remove(f"t{who}-{n - 1:02}") == 1
                    assert store.best(template(seed - 1), DIGEST)[0][0] != f"t{who}-{n - 1:02}"
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.best(template(0), DIGEST, top=999)) == len(store.listing()) == 8 * 6


def test_stores_of_one_file_in_several_threads_do_not_undo_each_others_locks(path):
    def work(who: int) -> None:
        for n in range(20):
            with SqliteStore(path) as own:
                own.add(enrolment(f"t{who}-{n:02}", 100 * who + n))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with SqliteStore(path) as store:
        assert len(store.listing()) == 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_store_is_not_taken_through_a_fork(path):
    code = """
        store = SqliteStore(sys.argv[1])
        store.add(enrolment("Anna"))
        if os.fork() == 0:
            try:
                store.listing()
            except StoreError as error:
                assert "open it in each process" in str(error)
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    """
    ended(start(code, path))


def test_a_file_that_was_moved_away_or_put_there_is_another_store(store, path):
    store.add(enrolment("Anna", 1))
    assert store.best(template(1), DIGEST)[0][0] == "Anna"
    path.rename(path.with_name("old"))
    assert (store.best(template(1), DIGEST), store.listing()) == ([], [])
    store.add(enrolment("Bob", 2))
    assert [name for name, _ in store.best(template(1), DIGEST, top=9)] == ["Bob"]
    path.with_name("old").replace(path)
    assert [name for name, _ in store.best(template(1), DIGEST, top=9)] == ["Anna"]


def test_a_link_to_nowhere_is_filled(path, tmp_path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "file")
    with SqliteStore(path) as store:
        store.add(enrolment("Anna"))
    assert path.is_symlink()
    assert (tmp_path / "elsewhere" / "file").exists()


# What is no store, or cannot be used


def everything(store: SqliteStore):
    """Each method once, as functions."""
    return [
        store.listing,
        store.models,
        lambda: store.best(template(0), DIGEST),
        lambda: store.add(enrolment("new")),
        lambda: store.remove("s1"),
    ]


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE enrolment (name TEXT)")
    db.close()


def newer(path: Path) -> None:
    with SqliteStore(path) as store:
        store.add(enrolment("s1"))
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.write_text("Anna,0.1,0.2\n" * 100), "is not a store of speakers"),
        (lambda path: path.write_bytes(b"x"), "is not a store of speakers"),
        (lambda path: path.write_bytes(bytes(8192)), "is not a store of speakers"),
        (foreign, "is not a store of speakers"),
        (newer, "format 3, .*up to 2: install a newer one"),
        (lambda path: path.mkdir(), "not a file"),
    ],
)
def test_other_files_are_refused_and_left_unchanged(path, make, complaint):
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with SqliteStore(path) as store:
        for method in everything(store):
            with pytest.raises(StoreError, match=rf"speakers\.sqlite: .*{complaint}"):
                method()
    assert before == (path.read_bytes() if path.is_file() else None)
    assert [file.name for file in path.parent.iterdir()] == ["speakers.sqlite"]


def test_an_empty_file_is_an_empty_store(store, path):
    path.parent.mkdir()
    path.touch()
    assert store.listing() == []
    assert path.stat().st_size == 0
    store.add(enrolment("Anna"))
    assert [each.name for each in store.listing()] == ["Anna"]


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with SqliteStore(tmp_path / "file" / "speakers.sqlite") as store:
        for method in everything(store):
            with pytest.raises(StoreError, match="cannot be opened"):
                method()


def test_a_store_marks_its_file(store, path):
    store.add(enrolment("Anna"))
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def test_a_template_of_the_wrong_size_in_the_file_is_damage(store, path):
    store.add(enrolment("s1"))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE enrolment SET template = x'00112233'")
    db.close()
    with pytest.raises(StoreError, match=r"speakers\.sqlite: the record of 's1' does not fit its key"):
        store.best(template(0), DIGEST)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_damaged(path, part):
    with SqliteStore(path) as store:
        store.add(*(enrolment(f"s{n}", n) for n in range(300)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part) // 4096 * 4096])
    with SqliteStore(path) as store, pytest.raises(StoreError, match="damaged"):
        store.best(template(0), DIGEST)


def test_a_file_with_wrong_bytes_raises_nothing_but_store_errors(tmp_path):
    with SqliteStore(tmp_path / "whole") as store:
        store.add(*(enrolment(f"s{n}", n) for n in range(60)))
    content = (tmp_path / "whole").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 5, 200])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        with SqliteStore(path) as store:
            for method in everything(store):
                try:
                    method()
                except StoreError:
                    refused += 1
    assert refused > 50


def as_nobody(code: str, *words: object) -> None:
    """Run where permissions count, which they do not for root."""
    drop = "if os.geteuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    imports = (
        "template(0); import hmac; from farvox.verifier.vault import seal, unseal; unseal(b'1' * 32, b'', [])"
    )
    drop = f"{imports}  # what nobody may import\n" + drop
    ended(start(drop + textwrap.dedent(code), *words))


@pytest.fixture
def open_folder():
    """A folder that others may enter; those of pytest are for the user alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for inner in folder.rglob("*"):
        inner.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_read_only_store_is_read(open_folder, monkeypatch, kind):
    monkeypatch.setenv("FARVOX_KEYS", str(open_folder / "keys"))
    path = open_folder / "data" / "speakers.sqlite"
    open_folder.chmod(0o777)
    as_nobody('SqliteStore(sys.argv[1]).add(enrolment("Anna"))', path)
    path.chmod(0o444 if kind == "file" else 0o666)
    path.parent.chmod(0o777 if kind == "file" else 0o555)
    before = path.read_bytes()
    code = """
        store = SqliteStore(sys.argv[1])
        assert [each.name for each in store.listing()] == ["Anna"]
        assert store.best(template(0), "d" * 64)[0][0] == "Anna"
        for change in (lambda: store.add(enrolment("Bob")), lambda: store.remove("Anna")):
            try:
                change()
            except StoreError as error:
                assert "look at the permissions" in str(error), error
            else:
                raise SystemExit("it was changed")
        assert [each.name for each in store.listing()] == ["Anna"]
    """
    as_nobody(code, path)
    assert path.read_bytes() == before
    path.chmod(0o666)  # the remedy: permissions that let it be written, and a journal beside it
    path.parent.chmod(0o777)
    as_nobody('SqliteStore(sys.argv[1]).add(enrolment("Bob"))', path)
    assert [each.name for each in SqliteStore(path).listing()] == ["Anna", "Bob"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_place_that_is_closed_is_an_error(open_folder):
    (open_folder / "closed").mkdir(mode=0o000)
    (open_folder / "unwritable").mkdir(mode=0o555)
    code = """
        for path in sys.argv[1:]:
            try:
                SqliteStore(path).add(enrolment("Bob"))
            except StoreError as error:
                assert "cannot be opened: [Errno 13]" in str(error), error
            else:
                raise SystemExit("it was made")
    """
    as_nobody(code, open_folder / "closed" / "speakers.sqlite", open_folder / "unwritable" / "a" / "b")


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_disk_that_has_no_room_leaves_the_store_as_it_was(path):
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = SqliteStore(sys.argv[1])
        store.add(*(enrolment(f"s{n}", n) for n in range(100)))
        store.best(template(5), "d" * 64)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
        try:
            store.add(*(enrolment(f"t{n}", n) for n in range(5000)))
        except StoreError as error:
            assert "the disk" in str(error), error
        else:
            raise SystemExit("the disk was not full")
        assert store.best(template(5), "d" * 64)[0][0] == "s5"
    """
    ended(start(code, path))
    with SqliteStore(path) as store:
        assert sorted(each.name for each in store.listing()) == sorted(f"s{n}" for n in range(100))


# Size


@pytest.mark.slow
def test_one_of_100_000_speakers_is_found_in_50_ms(store, path):
    rows = np.random.default_rng(0).standard_normal((100_000, 192)).astype(np.float32)
    store.add(
        *(
            Enrolment(
                name=f"s{n:06}",
                template_E=row,
                model_digest=DIGEST,
                model_name="m",
                num_recordings=1,
                seconds=3.0,
            )
            for n, row in enumerate(rows)
        )
    )
    took = []
    for n in range(0, 100_000, 10_000):
        begin = time.process_time()
        [(name, score)] = store.best(rows[n], DIGEST)
        took.append(time.process_time() - begin)
        assert (name, score) == (f"s{n:06}", pytest.approx(1))
    assert min(took) < 0.050  # its neighbours slow the others down
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    probe = np.random.default_rng(1).standard_normal(192)
    nearest = np.argsort(-(unit @ probe))[:10]
    assert [name for name, _ in store.best(probe, DIGEST, top=10)] == [f"s{n:06}" for n in nearest]


def gallery_of(templates, names=None, block=3):
    """A gallery filled a few rows at a time, in three steps."""
    templates = np.asarray(templates, np.float32)
    names = names or [f"s{n:03}" for n in range(len(templates))]
    made = Gallery(templates.shape[1])
    for part in np.array_split(np.arange(len(templates)), 3):
        pieces = [part[n : n + block] for n in range(0, len(part), block)]
        blocks = [Templates([n + 1 for n in p], [names[n] for n in p], templates[p]) for p in pieces]
        made = made.extended(blocks, len(part))
    return made


def brute_force(templates, names, emb_E, top):
    """By the definition of the cosine, in float64, one by one."""
    scored = []
    for name, row in zip(names, np.asarray(templates, np.float64), strict=True):
        scored.append((name, row @ emb_E / np.sqrt(row @ row) / np.sqrt(emb_E @ emb_E)))
    return sorted(scored, key=lambda pair: (-round(pair[1], 6), pair[0]))[:top]


# Templates of {-2..2}: many are equal, and cosines that differ at all differ by far more than rounding.
grid = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 40), st.just(4)), elements=st.integers(-2, 2).map(float)
).filter(lambda rows: rows.any(axis=1).all())


@given(rows=grid, probe=st.integers(0, 39), top=st.integers(1, 50), order=st.randoms())
def test_the_best_are_those_of_brute_force(rows, probe, top, order):
    names = [f"s{n:03}" for n in range(len(rows))]
    order.shuffle(names)
    emb_E = rows[probe % len(rows)] * np.float32(0.37)
    found = gallery_of(rows, names).best(emb_E, top)
    expected = brute_force(rows, names, emb_E.astype(np.float64), top)
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-6)
    own = dict(brute_force(rows, names, emb_E.astype(np.float64), len(rows)))
    np.testing.assert_allclose([own[name] for name, _ in found], [s for _, s in found], atol=1e-6)
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))


@given(
    rows=hnp.arrays(np.float32, (12, 6), elements=st.floats(-1, 1, width=32)).filter(
        lambda rows: rows.any(axis=1).all()
    ),
    top=st.integers(1, 12),
)
def test_scores_of_any_templates_are_cosines(rows, top):
    names = [f"s{n:03}" for n in range(len(rows))]
    emb_E = np.linspace(-1, 2, 6)
    found = gallery_of(rows, names).best(emb_E, top)
    expected = brute_force(rows, names, emb_E, top)
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)


@pytest.mark.parametrize("num", [1, 2, 7, 8, 9, 1000])
def test_equal_templates_come_by_name_wherever_they_lie(num):
    row = np.random.default_rng(0).standard_normal(193).astype(np.float32)
    names = [f"s{n:04}" for n in np.random.default_rng(1).permutation(num)]
    found = gallery_of(np.tile(row, (num, 1)), names).best(row, 5)
    assert [name for name, _ in found] == sorted(names)[:5]
    assert len({score for _, score in found}) == 1


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e20, 1e38])
def test_lengths_do_not_count(scale):
    rows = np.eye(3)[[0, 1, 2]] * scale
    assert gallery_of(rows).best(np.array([0, scale, 0]), 1) == [("s001", 1.0)]
    assert gallery_of(np.eye(3)).best(np.array([0, 1e300, 0]), 1) == [("s001", 1.0)]
    assert gallery_of(np.eye(3)).best(np.array([0, 0, -1e-300]), 3)[-1] == ("s002", -1.0)


def test_removing_rows_leaves_the_others():
    gallery = gallery_of(np.eye(5))
    kept = gallery.keeping(np.array([2, 5]))
    assert (kept.names, kept.ids_N.tolist()) == (["s001", "s004"], [2, 5])
    assert kept.best(np.eye(5)[4], 1) == [("s004", 1.0)]
    assert len(gallery) == 5
    assert gallery.keeping(np.empty(0, np.int64)).best(np.eye(5)[4], 1) == []


def test_a_gallery_does_not_change_when_it_is_extended():
    gallery = gallery_of(np.eye(4)[:3].repeat(10, axis=0))
    before = gallery.unit_NE.copy()
    longer = gallery.extended([Templates([99], ["new"], np.eye(4, dtype=np.float32)[3:])], 1)
    assert np.shares_memory(gallery.unit_NE, longer.unit_NE)
    np.testing.assert_array_equal(gallery.unit_NE, before)
    assert (len(gallery), len(longer)) == (30, 31)
    assert longer.best(np.eye(4)[3], 1) == [("new", 1.0)]


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_template_that_cannot_be_is_named(value):
    with pytest.raises(StoreError, match="template of 's001' is damaged"):
        gallery_of([[1, 0], [value, 0]])


@given(
    names=st.lists(
        st.sampled_from(["'; DROP TABLE enrolment; --", '" OR 1=1', "%", "_", "*", "../x", "\\", "NULL"])
        | st.text("'\";%_*?-()./\\ax", min_size=1, max_size=8).filter(str.strip),
        min_size=2,
        max_size=5,
        unique_by=str.strip,
    )
)
def test_a_name_of_any_characters_is_data_to_the_store(tmp_path_factory, names):
    names = [name.strip() for name in names]
    with SqliteStore(tmp_path_factory.mktemp("store") / "speakers.sqlite") as store:
        for seed, name in enumerate(names):
            store.add(enrolment(name, seed))
        assert sorted(entry.name for entry in store.listing()) == sorted(names)
        assert store.remove(names[0]) == 1
        assert sorted(entry.name for entry in store.listing()) == sorted(names[1:])
