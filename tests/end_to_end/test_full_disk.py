"""A full disk: the message names a path and the remedy, nothing is torn, and with room all is made.

Every verb that writes is run on a disk of its own, of 50 MB, in memory: undisturbed; with no room; with half
of the room that it takes; with enough; and with none again. A file is there as the undisturbed run left it,
as it was before, or not at all.
"""

import io
import os
import shutil
import subprocess
from contextlib import redirect_stderr, redirect_stdout

import av
import numpy as np
import pytest

from farvox.audio.files import write_audio
from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import Utterance, write_data_dir

pytestmark = pytest.mark.slow

PAGE = 4096
MAKES = {
    "trials": "trials {data} {out}",
    "subset": "subset {data} {out} --speakers 1-3",
    "pack": "pack {data} {out} --jobs 1",
    "prepare": "prepare voxceleb2 {vox2} {out} --convert flac --jobs 1",
    "rirs": "rirs {out} --rooms 2 --per-room 2 --jobs 1",
    "noises": "noises {data} {out} --least 0.1 --jobs 2",
    "simulate": "simulate {data} {out} --rirs {rirs} --jobs 2",
    "enhance": "enhance {takes} {out} --beamform delay-and-sum --by source --jobs 1",
    "extract": "extract {model} {data} {out} --quality",
    "cluster": "cluster {embeddings} {out} --clusters 2:6:1 --data {data} --plot {disk}/curve.png",
    "score": "score {trials} {embeddings} --out {out}",
    "evaluate": "evaluate {trials} {scores} --report {out}.html",
    "calibrate": "calibrate {trials} {scores} --save {out}.json --far 0.1",
    "submit": "submit {trials} {scores} {out}.zip",
    "average": "average {out} {model} {model}",
    "export": "export {model} {out}.onnx",
    "export ffsvc": "export {embeddings} {out}.npy --to ffsvc",
    "import": "import {npy} {out} --arch ffsvc-embeddings",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, model_folder, voices):
    """What the verbs read, on another disk."""
    folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    utterances = []
    for n in range(40):
        name, speaker = f"s{n % 5}-{n:02d}", f"s{n % 5}"
        loud = np.repeat([0.001, 0.1] * 3, 4000)
        path = folder / "audio" / speaker / f"{name}.wav"
        write_audio(path, loud * rng.standard_normal(len(loud)))
        utterances.append(Utterance(name, str(path), speaker, len(loud)))
    write_data_dir(folder / "data", utterances)
    for words in (
        "rirs {0}/rirs --rooms 2 --per-room 1 --array circular4 --jobs 1",
        "simulate {0}/data {0}/takes --rirs {0}/rirs --jobs 1",
        "extract {1} {0}/data {0}/embeddings",
        "trials {0}/data {0}/trials",
        "score {0}/trials {0}/embeddings --out {0}/scores",
        "export {0}/embeddings {0}/test_1.npy --to ffsvc",
    ):
        assert main(words.format(folder, model_folder).split()) == 0
    for n in range(3):
        m4a = folder / f"vox2/dev/aac/id0000{n}/a/00001.m4a"
        m4a.parent.mkdir(parents=True)
        with av.open(str(m4a), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            wav_CT = rng.standard_normal((1, 16000)).astype(np.float32) / 9
            frame = av.AudioFrame.from_ndarray(wav_CT, "fltp", "mono")
            frame.sample_rate = 16000
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
    names = ("data", "audio", "vox2", "rirs", "takes", "embeddings", "trials", "scores")
    return {
        **{name: folder / name for name in names},
        "npy": folder / "test_1.npy",
        "model": model_folder,
        "voices": voices,
    }


@pytest.fixture
def disk(tmp_path):
    """A disk of 50 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=50M", "tmpfs", folder], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        pytest.skip(f"needs the right to mount a disk: {error}")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def contents(disk):
    """Bytes of each file by its path; not of what fills the disk, nor of times of other files."""
    files = (path for path in disk.rglob("*") if path.is_file() and path.name != "filler")
    files = (path for path in files if path.suffix != ".state")
    return {str(path.relative_to(disk)): path.read_bytes() for path in files}


def leave(disk, room):
    """Fill the disk until ``room`` pages are left; None: empty what fills it."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    if room is not None:
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, (os.statvfs(disk).f_bavail - room) * PAGE)


def run(words):
    said = io.StringIO()
    with redirect_stdout(out := io.StringIO()), redirect_stderr(said):
        status = main(words)
    return subprocess.CompletedProcess(words, status, out.getvalue(), said.getvalue())


@pytest.mark.parametrize("verb", MAKES)
def test_without_room_nothing_is_torn_and_with_room_all_is_made(verb, inputs, disk, other_processes):
    words = MAKES[verb].format(disk=disk, out=disk / "out", **inputs).split()
    assert run(words).returncode == 0
    whole = contents(disk)
    needed = sum(-(-len(content) // PAGE) for content in whole.values())
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before: dict[str, bytes] = {}
    for room in sorted({0, needed // 2}):
        leave(disk, room)
        done = run(words)
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and last.startswith(f"farvox {words[0]}: {disk}"), done.stderr
        assert "the disk is full: free some space on it" in last and "tmp-" not in last
        left = contents(disk)
        assert not [name for name in left if ".tmp-" in name]
        for name in left.keys() & whole.keys():
            assert left[name] in (whole[name], before.get(name)), f"{name} is torn, with {room} pages of room"
        before = left
    leave(disk, None)
    assert run(words).returncode == 0
    assert contents(disk) == whole
    leave(disk, 0)
    assert run(words).returncode in (0, 1)
    assert contents(disk) == whole


def test_a_store_without_room_keeps_its_speakers_and_takes_another_with_room(inputs, disk):
    model, voices = inputs["model"], inputs["voices"]

    def enrol(name):
        return run(f"enrol {name} {voices}/{name}0.wav --store {disk}/store --model {model}".split())

    speakers = ["speakers", "--store", str(disk / "store")]
    assert enrol("a").returncode == 0
    known = run(speakers).stdout
    leave(disk, 0)
    done = enrol("b")
    assert done.returncode == 1 and f"{disk}/store: the disk is full: make room and try again" in done.stderr
    assert run(speakers).stdout == known
    leave(disk, None)
    assert enrol("b").returncode == 0
    assert run(speakers).stdout.startswith(known) and "b" in run(speakers).stdout


def test_a_model_and_a_cache_on_a_full_disk_stop_no_extraction(inputs, disk, tmp_path, monkeypatch):
    """The graph of the model finds no room, and torch computes."""
    shutil.copytree(inputs["model"], disk / "model", ignore=shutil.ignore_patterns("graph*"))
    leave(disk, 0)
    before = contents(disk)
    words = f"extract {disk}/model {inputs['data']} {tmp_path}/out".split()
    monkeypatch.setenv("FARVOX_CACHE", str(disk / "cache"))
    assert run(words).returncode == 0
    assert contents(disk) == before
    found, expected = EmbeddingSet.load(tmp_path / "out"), EmbeddingSet.load(inputs["embeddings"])
    assert found.meta["backend"] != expected.meta["backend"]
    assert np.abs(found.embeddings - expected.embeddings).max() < 1e-4
