import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.atomic import (
    PLAIN_NAME,
    FileKind,
    atomic_dir,
    atomic_file,
    file_name,
    is_alive,
    naming,
    write_json,
    write_text,
)
from farvox.errors import FarvoxError


def test_a_file_appears_with_its_content_and_nothing_else(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".txt"
        assert os.listdir(tmp_path / "new") == [temporary.name]
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named_with_the_path_whatever_writes(tmp_path: Path) -> None:
    def by_numpy(full: BinaryIO) -> None:
        np.save(full, np.zeros(100_000))

    def by_python(full: BinaryIO) -> None:
        full.write(bytes(100_000))

    def by_polars(full: BinaryIO) -> None:
        pl.DataFrame({"a": range(100_000)}).write_csv(full)

    def by_zipfile(full: BinaryIO) -> None:
        with zipfile.ZipFile(full, "w") as archive:
            archive.writestr("a", bytes(100_000))

    for write in (by_numpy, by_python, by_polars, by_zipfile):
        with (
            pytest.raises(FarvoxError, match=re.escape(f"{tmp_path}/a: cannot be written: the disk is full")),
            naming(tmp_path / "a"),
            open("/dev/full", "wb", buffering=0) as full,
        ):
            write(full)


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "disk" / "a.txt", "old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "disk" / "a.txt")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "disk" / "a.txt").read_text() == "new"


def test_line_ends_and_letters_are_written_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ü\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc\r\nb\n"
    write_json(tmp_path / "a.json", {"name": "ü"})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "name": "ü"\n}\n'
    write_json(tmp_path / "a.json", {"name": "ü", "eer": float("nan"), "best": (float("inf"), 0.5)})
    assert (tmp_path / "a.json").read_text("utf-8").split() == [
        *["{", '"name":', '"ü",', '"eer":', "null,", '"best":', "[", "null,", "0.5", "]", "}"]
    ]


def test_a_folder_replaces_the_earlier_one_as_a_whole(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_dir(tmp_path / "model") as folder:
            (folder / "config.json").write_text(content)
            (folder / content).mkdir()
    assert (tmp_path / "model" / "config.json").read_text() == "second"
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "second"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_failed_folder_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "model") as folder:
        (folder / "config.json").write_text("old")
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "model") as folder:
        (folder / "config.json").write_text("new")
        raise RuntimeError
    assert (tmp_path / "model" / "config.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("name", ["photos", "photos/one.jpg"])
def test_a_destination_that_farvox_did_not_make_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("precious")
    with pytest.raises(FarvoxError, match="choose another name"), atomic_dir(tmp_path / name):
        pytest.fail("the block must not start")
    assert (tmp_path / "photos" / "one.jpg").read_text() == "precious"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with atomic_dir(tmp_path / "model") as folder:
        (folder / "weights").write_text("w")
    assert os.listdir(tmp_path / "model") == ["weights"]


def test_a_destination_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    for write in (atomic_file, atomic_dir):
        with pytest.raises(FarvoxError, match="below: cannot be written"), write(tmp_path / "file" / "below"):
            pytest.fail("the block must not start")


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(FarvoxError, match="photos: is a folder"):
        write_text(tmp_path / "photos", "text")
    assert os.listdir(tmp_path) == ["photos"]


def test_a_replaced_file_leaves_its_permissions_and_a_protected_one_stays(tmp_path: Path) -> None:
    for mode in (0o600, 0o664):
        write_text(tmp_path / "a.txt", "old")
        (tmp_path / "a.txt").chmod(mode)
        write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
    (tmp_path / "a.txt").chmod(0o444)
    (tmp_path / "link").symlink_to("a.txt")
    for name in ("a.txt", "link"):
        with pytest.raises(FarvoxError, match=rf"{name}.*: is write-protected"):
            write_text(tmp_path / name, "newer")
    assert (tmp_path / "a.txt").read_text() == "new" and (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o444


def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(FarvoxError, match=f"{path}: is a device or a pipe"):
            write_text(path, "text")
        assert not path.is_file()


def test_a_file_is_told_by_all_lines_of_its_first_64_kb(tmp_path: Path) -> None:
    kind, path = FileKind("list", rb"\d+", lines=True), tmp_path / "a.txt"
    for text, fits in (
        ("", True), ("1\n2\n", True), ("1\r\n2", True), ("1\nx", False), ("x\n", False), ("\n", False),
        ("1\n" * 40_000 + "x" * 10, True), ("1" * 70_000, False),
    ):  # fmt: skip
        path.write_bytes(text.encode())
        assert kind.matches(path) == fits, text[:20]


HOSTILE = [
    "../../x",
    "/etc/passwd",
    "a/b",
    "a%2Fb",
    "..",
    ".",
    ".hidden",
    "",
    "x\n",
    "\x1b[2Jx",
    "é",
    "e\u0301",
    "x" * 300,
]
HOSTILE += ["x" * 299 + "y", "a\\b", "C:x", "a\0b", "\ud800", "<b>&'\"", "x.", "x. "]
ANY_ID = st.sampled_from(HOSTILE) | st.text(max_size=300) | st.text("./\\%~ \0a", max_size=6)


@given(one=ANY_ID, other=ANY_ID)
def test_an_id_of_any_characters_becomes_the_name_of_one_file_of_its_own(one: str, other: str) -> None:
    name = file_name(one)
    assert name.isascii() and name.isprintable() and 0 < len(name) <= 200
    assert not set(name) & set("/\\:<>&'\"|?* ") and name[0] != "." and name[-1] != "."
    assert (name == file_name(other)) == (one == other)
    assert (name == one) == bool(re.search(PLAIN_NAME, one) and not one.endswith("\n"))


def test_usual_ids_keep_their_names() -> None:
    for name in ("id00012-21Uxsk56VDQ-00001", "A.b_c~d-e", "000010011", "x" * 200):
        assert file_name(name) == name
    assert file_name("../张") == "%2E.%2F%E5%BC%A0"


def test_a_process_that_ended_is_not_alive_although_its_number_is_kept() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid) and is_alive(os.getpid())
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.kill(process.pid, 0)  # its number is kept until it is waited for
        assert not is_alive(process.pid)
    assert not is_alive(process.pid)
