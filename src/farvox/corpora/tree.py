"""Finding the files of a corpus on disk."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from farvox.errors import CorpusError

# fmt: off
AUDIO_SUFFIXES = frozenset((
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mp3", ".mp4",
    ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav", ".webm", ".wma",
))
# fmt: on


def open_source(source: Path, out: Path, expected: str, *, apart: bool = False) -> Path:
    """The absolute path of a corpus folder, after making sure that its own files will not be replaced.

    Args:
        source: the folder as the user named it.
        out: where the data dirs will go.
        expected: what the folder should hold, for the message.
        apart: refuse an ``out`` anywhere inside the corpus, where it could be taken for a part of it.

    Raises:
        CorpusError: there is no such folder, or ``out`` is that folder (or, if ``apart``, lies in it).
    """
    source, out = Path(os.path.abspath(source)), Path(os.path.abspath(out))
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder; expected one with {expected}")
    real_source, real_out = source.resolve(), out.resolve()
    if real_out == real_source or (apart and real_out.is_relative_to(real_source)):
        raise CorpusError(f"{out}: lies in the corpus {source}; choose an output folder outside of it")
    return source


def walk(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` in a fixed order: links to folders are followed once, hidden entries are left out.

    As with ``os.walk``, a caller may remove names from the list of folders to keep out of them.

    Raises:
        CorpusError: a folder cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    for path, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, folders, sorted(name for name in files if not name.startswith("."))


def audio_files(folder: str | Path, suffixes: Collection[str] = AUDIO_SUFFIXES) -> Iterator[str]:
    """The audio files at any depth below a folder, told by their suffix in either case."""
    for path, _, files in walk(folder):
        for name in files:
            if os.path.splitext(name)[1].lower() in suffixes:
                yield os.path.join(path, name)


def stem(path: str) -> str:
    """The file name without its last suffix: ``a/b.c.wav`` is ``b.c``."""
    return os.path.splitext(os.path.basename(path))[0]


def read_text(path: Path) -> str:
    """The text of a file with its line ends as they are.

    Raises:
        CorpusError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None


def listed_files(list_path: Path) -> list[str]:
    """The files of a list with one path per line, such as the baseline's ``noise_wav_list`` and ``rir_list``.

    A line of Kaldi's form ``--rir-id X --room-id Y PATH`` counts by its last word. A relative path is looked
    for from the list's own folder, then from the folders above it, nearest first; at last without its first
    folder, which is the corpus's own (``RIRS_NOISES/...``) and may have another name here.

    Raises:
        CorpusError: the list is empty, or names a file that is not there.
    """
    found = []
    base = list_path = Path(os.path.abspath(list_path))
    for number, line in enumerate(read_text(list_path).splitlines(), 1):
        entry = line.strip().split()[-1] if line.startswith("--") else line.strip()
        if not entry:
            continue
        bases = (base, list_path.parent, *list_path.parent.parents)
        places = ((base, path) for path in (entry, entry.partition("/")[2]) for base in bases)
        place = next((place for place in places if os.path.isfile(os.path.join(*place))), None)
        if place is None:
            raise CorpusError(f"{list_path}:{number}: no file {entry}; expected the path of an audio file")
        base = place[0]
        found.append(os.path.abspath(os.path.join(*place)))
    if not found:
        raise CorpusError(f"{list_path}: an empty list; expected the path of an audio file on each line")
    return list(dict.fromkeys(found))


def _refuse(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: cannot be listed ({error.strerror})")
