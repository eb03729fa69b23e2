import os
import subprocess
import sys
import textwrap

import pytest

from farvox.cache import DONE, cache_path, cached_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_text("one")
    return path


def copy_of(source, log):
    def build(folder):
        log.append(folder)
        (folder / "copy").write_text(source.read_text())

    return build


def test_a_cached_folder_is_made_once(source):
    log = []
    folders = {cached_folder("copies", "copy", [source], copy_of(source, log)) for _ in range(3)}
    assert len(log) == 1 and len(folders) == 1
    folder = folders.pop()
    assert folder.parent == cache_path() / "copies" and (folder / "copy").read_text() == "one"


def test_it_is_made_again_when_a_file_changed_and_the_old_one_goes(source):
    log = []
    old = cached_folder("copies", "copy", [source], copy_of(source, log))
    other = cached_folder("copies", "another", [source], copy_of(source, log))
    source.write_text("two")
    os.utime(source, ns=(0, 123456789))
    new = cached_folder("copies", "copy", [source], copy_of(source, log))
    assert (new / "copy").read_text() == "two" and len(log) == 3
    assert not old.exists() and other.exists()


def test_a_builder_that_fails_leaves_nothing_behind(source):
    def build(folder):
        (folder / "half").write_text("...")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("copies", "copy", [source], build)
    assert not cache_path().exists()


def test_of_several_processes_one_builds_and_the_others_wait(source, tmp_path):
    code = textwrap.dedent(
        """
        import pathlib, sys, time
        from farvox.cache import cached_folder
        source, log = map(pathlib.Path, sys.argv[1:])
        def build(folder):
            with log.open("a") as file:
                file.write("built\\n")
            time.sleep(0.5)
            (folder / "copy").write_text("whole")
        assert (cached_folder("copies", "copy", [source], build) / "copy").read_text() == "whole"
        """
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", code, str(source), str(log)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert log.read_text() == "built\n"
    assert (next((cache_path() / "copies").glob("[!.]*-*")) / DONE).exists()
