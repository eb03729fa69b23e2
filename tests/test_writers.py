"""One writer of one output, whatever happens to the first; what dead processes leave goes, and no more."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from farvox import atomic, writers
from farvox.atomic import INCOMING, atomic_dir, atomic_file, atomic_update, machine_tag, visible
from farvox.errors import BusyError, FarvoxError
from farvox.writers import JOBS, finish_update, one_writer, writes

HOLD = """
import os, sys
from farvox.writers import one_writer
with one_writer(sys.argv[1]):
    {}
    print("mine", flush=True)
    sys.stdin.read()
    {}
"""


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(writers, "PATIENCE", 0.2)


@contextmanager
def other_process(path: Path, also: str = "pass", at_end: str = "pass") -> Iterator[subprocess.Popen[str]]:
    """A process that is the only writer of ``path`` until its input ends; its words name it in messages."""
    command = [sys.executable, "-c", HOLD.format(also, at_end), str(path), "--name", "the first"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout and process.stdin
        try:
            assert process.stdout.readline() == "mine\n"
            yield process
        finally:
            process.stdin.close()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_second_writer_is_told_who_the_first_is_and_goes_on_when_that_has_ended(tmp_path):
    with other_process(tmp_path / "out") as first:
        with pytest.raises(BusyError) as told, one_writer(tmp_path / "out"):
            pytest.fail("the block must not start")
        told_of = [f"{tmp_path}/out: is being written", f"process {first.pid}", os.uname().nodename]
        for word in (*told_of, "since 20", "the first", "wait until that ends, or choose another name"):
            assert word in str(told.value)
        with one_writer(tmp_path / "other"):  # is in nobody's way
            pass
    with one_writer(tmp_path / "out"):
        pass
    assert everything(tmp_path) == []


def test_one_that_may_wait_waits(tmp_path):
    with other_process(tmp_path / "out") as first:
        assert first.stdin
        threading.Timer(0.6, first.stdin.close).start()
        with one_writer(tmp_path / "out", wait=True):
            assert first.wait() == 0


def test_one_that_waited_and_replaces_what_the_other_made_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(writers, "PATIENCE", 30)
    out, said = tmp_path / "out", []
    kinds = (
        ("made", {}),
        ("made again", {}),
        ("", {}),
        ("again", {"wait": True}),
        ("more", {"anywhere": True}),
    )
    for change, how in kinds:
        with other_process(out, at_end=f"open(sys.argv[1], 'w').write({change!r})" * bool(change)) as first:
            assert first.stdin
            threading.Timer(0.3, first.stdin.close).start()
            with one_writer(out, **how):
                said.append(capfd.readouterr().err)
    told = f"note: {out}: was written by process "
    assert [each.startswith(told) for each in said] == [True, True, False, False, False]
    assert said[2:] == ["", "", ""]
    assert "the first' while this command waited for it" in said[0] and said[0].count("\n") == 1


def test_an_output_is_the_same_by_every_name(tmp_path, monkeypatch):
    (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "name").symlink_to(tmp_path / "link" / "out")
    monkeypatch.chdir(tmp_path)
    with other_process(tmp_path / "disk" / "out"):
        for name in ("name", "link/out", "disk/../disk/out", tmp_path / "name"):
            with pytest.raises(BusyError), one_writer(name):
                pytest.fail("the block must not start")


def test_a_block_may_ask_again_but_not_another_thread(tmp_path):
    told = []

    def ask():
        try:
            with one_writer(tmp_path / "out"):
                told.append("mine")
        except BusyError as error:
            told.append(str(error))

    with one_writer(tmp_path / "out"):
        with one_writer(tmp_path / "out"), one_writer(tmp_path / "out" / "inside"):
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        assert len(told) == 1 and f"process {os.getpid()}" in told[0]
        assert [path.name for path in tmp_path.iterdir()] == [".lock-out"]
    ask()
    assert told[1:] == ["mine"] and everything(tmp_path) == []


def test_folders_that_were_made_for_the_lock_stay_only_with_something_in_them(tmp_path):
    with pytest.raises(RuntimeError), one_writer(tmp_path / "a" / "b" / "out"):
        raise RuntimeError
    assert everything(tmp_path) == []
    with one_writer(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "kept").touch()
    assert everything(tmp_path) == ["a", "a/kept"]


LEAVE = """
    from farvox.atomic import temporary_beside
    from pathlib import Path
    out = Path(sys.argv[1])
    (out / "audio").mkdir(parents=True)
    left = [temporary_beside(place, is_folder=n == 1) for n, place in enumerate((out, out / "a", out / "audio/b.wav"))]
    [each.__enter__() for each in left]
"""  # noqa: E501


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    with other_process(out, LEAVE.strip()) as first:
        assert len(list(out.rglob(".tmp-*"))) == 2 and len(list(tmp_path.glob(".tmp-*"))) == 1
        kill(first)
    tag, live = machine_tag(), os.getpid()
    elsewhere = "0" * 12 if not tag.startswith("000000") else "1" * 12
    spared = [
        out / f".tmp-{elsewhere}-{first.pid}-01234567-a.txt",  # of another machine
        out / "audio" / f".tmp-{tag}-{live}-01234567-b.txt",  # of a process that lives, and has just made it
        tmp_path / ".tmp-notes",  # of no one we know
        out / ".git",
    ]
    for path in spared:
        path.write_text("x")
    with atomic_file(out / "c.txt") as mine, one_writer(out):
        mine.write_text("x")
        assert set(out.rglob(".tmp-*")) | set(tmp_path.glob(".tmp-*")) == {*spared[:3], mine}
    assert everything(tmp_path) == sorted(
        str(path.relative_to(tmp_path)) for path in (*spared, out, out / "audio", out / "c.txt")
    )


def test_what_a_child_of_a_killed_writer_leaves_later_goes_at_the_end_of_the_next(tmp_path):
    out = tmp_path / "out"
    leave = LEAVE.strip().replace("sys.argv[1]", repr(str(out)))
    with other_process(tmp_path / "child", leave) as child, other_process(out) as first:
        kill(first)
        with one_writer(out):
            assert len(list(tmp_path.rglob(".tmp-*"))) == 3
            kill(child)
        assert list(tmp_path.rglob(".tmp-*")) == []


def test_a_temporary_file_without_its_lock_is_stale_after_a_while_though_a_process_has_its_number(tmp_path):
    left = tmp_path / f".tmp-{machine_tag()}-{os.getpid()}-01234567-a.txt"
    left.write_text("x")
    os.utime(left, (0, 0))
    with one_writer(tmp_path / "out"):
        pass
    assert everything(tmp_path) == []


def test_the_lock_of_another_machine_is_never_removed(tmp_path):
    lock = tmp_path / ".lock-out"
    holder = {
        "host": "node7",
        "machine": "0" * 12,
        "pid": 42,
        "since": "2026-01-02 03:04:05",
        "command": "farvox",
    }
    lock.write_text(json.dumps(holder))
    told = pytest.raises(BusyError, match=f"process 42 on node7, since 2026.*remove {lock}")
    with told, one_writer(tmp_path / "out", wait=True):
        pytest.fail("the block must not start")
    assert json.loads(lock.read_text()) == holder
    lock.unlink()  # as the message says
    with one_writer(tmp_path / "out"):
        pass


@pytest.mark.parametrize(("variable", "job"), [("SLURM_JOB_ID", "812"), ("TORCHELASTIC_RUN_ID", "mine")])
def test_a_job_that_goes_on_on_another_machine_takes_the_lock_that_it_left(
    variable, job, tmp_path, monkeypatch
):
    for name in JOBS:
        monkeypatch.delenv(name, raising=False)
    lock = tmp_path / ".lock-out"
    monkeypatch.setenv(variable, job)
    with one_writer(tmp_path / "out"):
        left = json.loads(lock.read_text()) | {"machine": "0" * 12}
    for number in ("none", "813"):
        monkeypatch.setenv(variable, number)
        lock.write_text(json.dumps(left))
        with pytest.raises(BusyError), one_writer(tmp_path / "out"):
            pytest.fail("the block must not start")
    monkeypatch.setenv(variable, job)
    with other_process(tmp_path / "out") as holder:  # it works on, wherever that is
        lock.write_text(json.dumps(left))
        with pytest.raises(BusyError), one_writer(tmp_path / "out"):
            pytest.fail("the block must not start")
        kill(holder)
    lock.write_text(json.dumps(left))
    with one_writer(tmp_path / "out"):
        pass
    assert everything(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\0", "{}", '{"pid": "x"}', "[" * 4000])
def test_a_lock_that_says_nothing_is_nobodys(tmp_path, text):
    (tmp_path / ".lock-out").write_text(text)
    with one_writer(tmp_path / "out"):
        pass
    assert everything(tmp_path) == []


def test_children_that_were_forked_do_not_keep_the_lock_of_a_process_that_was_killed(tmp_path):
    fork = "child = os.fork() or signal.pause(); open(sys.argv[1] + '-child', 'w').write(str(child))"
    with other_process(tmp_path / "out", f"import signal; {fork}") as first:
        kill(first)
        with one_writer(tmp_path / "out"):
            os.kill(int((tmp_path / "out-child").read_text()), signal.SIGKILL)


def test_where_the_file_system_has_no_locks_the_file_tells(tmp_path, monkeypatch):
    """As on some network disks, where flock is refused."""
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with other_process(tmp_path / "out") as first:
        with pytest.raises(BusyError, match=f"process {first.pid} "), one_writer(tmp_path / "out"):
            pytest.fail("the block must not start")
        kill(first)
    with one_writer(tmp_path / "out"):
        pass
    assert everything(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="nothing can be mounted")
def test_a_folder_whose_parent_is_another_disk_holds_its_own_lock(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", out], capture_output=True).returncode:
        pytest.skip("nothing can be mounted")
    try:
        with other_process(out):
            assert os.listdir(out) == [".lock-out"] and os.listdir(tmp_path) == ["out"]
            with pytest.raises(BusyError), one_writer(out):
                pytest.fail("the block must not start")
        for text in ("old", "new"):
            with one_writer(out), atomic_update(out, "b".__eq__) as new:
                (new / "a").write_text(text)
            (out / "b").touch()
        assert (out / "a").read_text() == "new" and sorted(os.listdir(out)) == ["a", "b"]
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_function_declares_its_output_once(tmp_path):
    @writes("out")
    def write(number: int, out: Path | None = None) -> list[str]:
        return [path.name for path in tmp_path.iterdir()]

    assert write(1) == [] and write(1, out=None) == []
    assert write(1, tmp_path / "a") == write(number=1, out=tmp_path / "a") == [".lock-a"]


def test_what_cannot_be_locked_names_the_output(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(FarvoxError, match="file/below: cannot be written"),
        one_writer(tmp_path / "file/below"),
    ):
        pytest.fail("the block must not start")


# Replacing


def test_files_are_replaced_together_and_others_stay(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "notes", ".hidden"):
        (tmp_path / "data" / name).write_text("old")
    (tmp_path / "data" / "link").symlink_to("notes")
    before = (tmp_path / "data").stat().st_ino
    with atomic_update(tmp_path / "data", "b".__eq__) as new:
        (new / "a").write_text("new")
    assert (tmp_path / "data").stat().st_ino != before  # swapped
    assert everything(tmp_path / "data") == [".hidden", "a", "link", "notes"]
    assert [(tmp_path / "data" / name).read_text() for name in ("a", "link", ".hidden")] == [
        "new",
        "old",
        "old",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


DIE = """
import os, signal, sys
from pathlib import Path
from farvox import atomic
from farvox.writers import one_writer
calls = int(sys.argv[2])
def die_at(function):
    def later(*words, **named):
        global calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **named)
    return later
{}
with one_writer(sys.argv[1]), {} as new:
    (new / "config.json").write_text("new")
    (new / "other").write_text("new")
"""
UPDATE, DIR = 'atomic.atomic_update(sys.argv[1], "gone".__eq__)', "atomic.atomic_dir(sys.argv[1])"
CHANGES = "os.replace, os.rename = die_at(os.replace), die_at(os.rename)"
WAYS = {
    "swapped": (DIR, "atomic._exchange, atomic.discard = die_at(atomic._exchange), die_at(atomic.discard)"),
    "without a swap": (DIR, f"atomic._exchange = lambda *_: False; {CHANGES}"),
    "swapped with folders": (
        UPDATE,
        "atomic._exchange, atomic.discard, Path.symlink_to, atomic._flush = map(die_at, "
        "(atomic._exchange, atomic.discard, Path.symlink_to, atomic._flush))",
    ),
    "file by file": (
        UPDATE,
        f"atomic._exchange = lambda *_: False; {CHANGES}; "
        "Path.unlink, Path.rename = die_at(Path.unlink), die_at(Path.rename)",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_old_or_new_is_there_after_a_kill_between_any_two_changes(tmp_path, way):
    """The process kills itself before its first change to the folder, its second, and so on."""
    how, dying = WAYS[way]
    seen = [(1, "old")]
    while seen[-1][0]:
        number = len(seen)
        out = tmp_path / str(number) / "out"
        (out / "audio").mkdir(parents=True)
        for name in ("config.json", "other", "gone", "audio/a.wav"):
            (out / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", DIE.format(dying, how), out, str(number)])
        if "swapped" in way:  # another program sees no mixture
            assert (out / "config.json").read_text() == (out / "other").read_text()
            assert how == DIR or (out / "audio/a.wav").read_text() == "old"
        with one_writer(out):  # the next start
            pass
        finish_update(out)
        found = {(out / name).read_text() for name in ("config.json", "other")}
        found.add("old" if (out / "gone").exists() else "new")
        assert len(found) == 1 and (how == DIR or (out / "audio/a.wav").read_text() == "old")
        assert not (out / "audio").is_symlink()
        assert [path for path in out.parent.rglob(".*")] == []
        seen.append((done.returncode, found.pop()))
        assert done.returncode in (0, -signal.SIGKILL)
    assert {found for status, found in seen if status == -signal.SIGKILL} == {"old", "new"}
    assert seen[-1] == (0, "new") and len(seen) > 2


def test_a_reader_finishes_what_a_kill_interrupted(tmp_path):
    from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir

    def utterances(speaker):
        return [Utterance(f"{speaker}-{n}", f"/{speaker}{n}.wav", speaker) for n in range(3)]

    out = tmp_path / "data"
    (out / "audio").mkdir(parents=True)
    write_data_dir(out, utterances("a"))
    write_data_dir(tmp_path / "other", utterances("b"), files={"utt2age": "b-0 30\n"})
    (tmp_path / "other").rename(out / INCOMING)  # a kill before the first of its files came into its place
    (out / INCOMING / ".outdated").touch()
    (out / "wav.scp").write_bytes((out / INCOMING / "wav.scp").read_bytes())  # or after some
    assert DataDir.open(out).speaker_ids.unique().to_list() == ["b"]
    assert everything(out) == ["audio", "spk2utt", "utt2age", "utt2spk", "wav.scp"]


def test_a_full_disk_during_the_swap_leaves_the_old(tmp_path):
    with atomic_dir(tmp_path / "model") as folder:
        (folder / "config.json").write_text("old")
    told = pytest.raises(FarvoxError, match="model: cannot be written: the disk is full")
    with told, atomic_update(tmp_path / "model", "config.json".__eq__) as new:
        (new / "config.json").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "model" / "config.json").read_text() == "old" and len(everything(tmp_path)) == 2


def test_hidden_files_are_not_seen(tmp_path):
    for name in ("a.wav", ".tmp-b.wav", "c/d.wav", ".e/f.wav", "c/.g/h.wav", "c/.i.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert visible(tmp_path) == [tmp_path / "a.wav", tmp_path / "c"]
    assert visible(tmp_path, "**/*.wav") == [tmp_path / "a.wav", tmp_path / "c/d.wav"]
    assert visible(tmp_path / ".e") == [tmp_path / ".e/f.wav"]  # who names it means it
    assert visible(tmp_path / "nowhere") == []
    assert atomic.visible is visible


# Folders that are read


@pytest.mark.parametrize("leftover", [".tmp-0123-b.wav", ".hidden/b.wav", "more/.b.flac"])
def test_hidden_audio_is_no_noise_response_or_recording(tmp_path, leftover, make_corpus):
    """As a truncated file of a simulation that was killed, in a folder that is read whole."""
    from farvox.corpora.parts import audio_files
    from farvox.farfield.rirs import audio_of

    (tmp_path / "noise" / leftover).parent.mkdir(parents=True)
    (tmp_path / "noise" / leftover).write_bytes(b"RIFF cut o")
    (tmp_path / "noise" / "a.wav").write_bytes(b"RIFF")
    assert [name for name, _ in audio_of(tmp_path / "noise")] == ["a"]
    assert [Path(path).name for path in audio_files(tmp_path / "noise")] == ["a.wav"]


def test_hidden_files_of_a_data_dir_are_not_carried_along(tmp_path, make_corpus):
    from farvox.datadir.derive import combine, subset
    from farvox.datadir.pack import pack

    data = make_corpus(tmp_path / "data", speakers=["ann", "bob"], takes=1)
    for name in (".tmp-0123-utt2age", ".utt2age", ".trials"):
        (data / name).write_text("ann_0 30\n")
    subset(data, tmp_path / "subset", speakers="1-1")
    combine(tmp_path / "combined", [data])
    pack(data, tmp_path / "packed")
    for made in ("subset", "combined", "packed"):
        assert [name for name in os.listdir(tmp_path / made) if name[0] == "."] == [".made-by.json"]


def test_hidden_files_of_a_model_are_none_of_it(tmp_path, model_folder):
    from farvox.manifest import damaged_files, write_manifest
    from farvox.zoo import load_model
    from farvox.zoo.model import load_all

    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    for name in (".tmp-0123-config.json", ".tmp-0123-model.safetensors"):
        (folder / name).write_text("{")
    load_model(folder)
    write_manifest(folder, load_all)
    assert damaged_files(folder) == [] and ".tmp" not in (folder / "manifest.json").read_text()


def test_a_folder_with_nothing_but_litter_is_an_empty_one(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".lock-x").touch()
    (tmp_path / "model" / ".tmp-0123-x").touch()
    with atomic_dir(tmp_path / "model") as folder:
        (folder / "config.json").touch()
    (tmp_path / "git" / ".git").mkdir(parents=True)  # which is somebody's work
    with pytest.raises(FarvoxError, match="holds other things"), atomic_dir(tmp_path / "git"):
        pytest.fail("the block must not start")


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB; tests skip where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk of 8 MB")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_on_a_full_disk_a_model_and_a_data_dir_that_were_to_be_replaced_stay(small_disk, tmp_path):
    from farvox.datadir.derive import subset
    from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.zoo import average_models, import_checkpoint, load_model, save_model

    sizes = {"channels": 8, "embedding_dim": 64}
    config = FrontEndConfig(num_mels=80)
    for name in "ab":
        network = build_model("resnet34", num_mels=80, **sizes)
        save_model(tmp_path / name, network, config, "resnet34", {"num_mels": 80, **sizes})
    average_models(small_disk / "average", [tmp_path / "a", tmp_path / "b"])
    checkpoint = tmp_path / "model_1.pkl"
    torch.save({"model": build_model("ffsvc-resnet34", **sizes).state_dict()}, checkpoint)
    import_checkpoint(checkpoint, small_disk / "imported", "ffsvc-resnet34")
    long = "x" * 200
    rows = [Utterance(f"{n:04d}-{long}", f"/{long}.wav", f"{n:04d}") for n in range(1000)]
    write_data_dir(tmp_path / "data", rows)
    subset(tmp_path / "data", small_disk / "subset", speakers="1-500")
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    with suppress(OSError), open(small_disk / "full", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    for write in (
        lambda: average_models(small_disk / "average", [tmp_path / "a", tmp_path / "b"], [1, 2]),
        lambda: import_checkpoint(checkpoint, small_disk / "imported", "ffsvc-resnet34"),
        lambda: subset(tmp_path / "data", small_disk / "subset", speakers="1-1000"),
    ):
        with pytest.raises(FarvoxError, match="cannot be written: the disk is full"):
            write()
    (small_disk / "full").unlink()
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
    for name in ("average", "imported"):
        load_model(small_disk / name)
    assert len(DataDir.open(small_disk / "subset")) == 500
    average_models(small_disk / "average", [tmp_path / "a", tmp_path / "b"], [1, 2])  # after room is made
