"""Background noise that anyone can make, to augment and to test with where none was recorded."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from farvox.atomic import atomic_dir, write_json
from farvox.audio.files import write_audio
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import CorpusError
from farvox.jobs import Job
from farvox.progress import Note
from farvox.synthetic.studio import NOISES, build_noise

SETTINGS = "noise.json"  # in the audio folder: what it was made from


def prepare_noise(
    source: str | Path, out: Path, *, note: Note, seed: int = 0, jobs: int | None = None
) -> list[DataDir]:
    """Make clips of 6 s: coloured noise, hum, machines and babble in turn.

    Every fourth clip of each kind is in OUT/test, the others in OUT/train; no clip is in both. OUT/audio
    appears whole or not at all.

    Args:
        source: how many clips; at least 16.
        out: folder to make; an ``audio`` folder in it that an earlier run made is replaced.
        seed: everything is drawn from it; the bytes do not depend on ``jobs``.

    Raises:
        CorpusError: ``source`` is no such number.
        JobError: a process was killed.
    """
    text, out = str(source), Path(out).absolute()
    if not re.fullmatch(r"\d{1,6}", text) or not 16 <= int(text) <= 100_000:
        raise CorpusError(f"'{text}': give the number of clips to make as SOURCE, from 16 to 100000")
    parts: dict[str, list[Utterance]] = {"train": [], "test": []}
    with atomic_dir(out / "audio", own_files=(SETTINGS,)) as folder:
        job = Job(what="noises made", note=note, jobs=jobs)
        made = job.run(partial(build_noise, seed), range(int(text)), count=lambda _: 1)
        for number, noise_T in enumerate(made):
            kind, name = NOISES[number % len(NOISES)], f"{number:05d}"
            write_audio(folder / f"{kind}{name}.flac", noise_T)
            part = "test" if number // len(NOISES) % 4 == 3 else "train"
            path = str(out / "audio" / f"{kind}{name}.flac")
            parts[part].append(Utterance(f"{kind}{name}", path, None, len(noise_T)))
        write_json(folder / SETTINGS, {"clips": int(text), "seed": seed})
    for part, utterances in parts.items():
        note(f"{out / part}: {len(utterances)} clips of noise")
    return [write_data_dir(out / part, utterances) for part, utterances in parts.items()]
