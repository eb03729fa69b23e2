"""Samples come from every source as they were given."""

import ctypes.util
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from farvox.audio.files import read_recording, write_audio
from farvox.errors import AudioError, FarvoxError, UsageError
from farvox.verifier.sources import SourceOptions, open_source


def taken(source):
    return np.concatenate([samples for samples, _ in source.blocks], axis=1)


@pytest.fixture
def samples():
    return np.random.default_rng(1).integers(-9000, 9000, (2, 8123)).astype(np.int16)


def test_a_file_comes_in_blocks_of_a_tenth_of_a_second(tmp_path, samples):
    write_audio(tmp_path / "a.flac", samples / 32768, 22050)
    with open_source(SourceOptions(source=str(tmp_path / "a.flac"))) as source:
        assert (source.sample_rate, source.num_channels) == (22050, 2)
        blocks = [block for block, _ in source.blocks]
    assert {block.shape[1] for block in blocks[:-1]} == {2205}
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), read_recording(tmp_path / "a.flac")[0])


def test_a_file_in_real_time_takes_as_long_as_it_is(tmp_path, samples):
    write_audio(tmp_path / "a.wav", samples / 32768, 16000)
    begin = time.monotonic()
    with open_source(SourceOptions(source=str(tmp_path / "a.wav"), real_time=True)) as source:
        lengths = [(block.shape[1], time.monotonic() >= came) for block, came in source.blocks]
    assert lengths == [*[(1600, True)] * 5, (123, True)] and time.monotonic() - begin >= 8123 / 16000


@pytest.mark.parametrize(("encoding", "kind"), [("s16le", "<i2"), ("s32le", "<i4"), ("f32le", "<f4")])
def test_raw_samples_come_through_a_socket_however_they_are_cut(samples, encoding, kind):
    content = samples.T.astype(kind).tobytes() + b"\1"  # half a sample at the end is none

    def give():
        connection, _ = server.accept()
        with connection:
            for begin in range(0, len(content), 997):
                connection.sendall(content[begin : begin + 997])

    with socket.create_server(("127.0.0.1", 0)) as server:
        giving = threading.Thread(target=give)
        giving.start()
        port = server.getsockname()[1]
        options = SourceOptions(source=f"tcp:127.0.0.1:{port}", channels=2, encoding=encoding)
        with open_source(options) as source:
            np.testing.assert_array_equal(taken(source), samples.astype(kind))
        giving.join()


def test_raw_samples_come_from_standard_input(samples):
    script = (
        "import numpy as np, sys\nfrom farvox.verifier.sources import *\n"
        "with open_source(SourceOptions(source='-', channels=2)) as source:\n"
        "    print(sum(int(np.abs(block).sum()) for block, _ in source.blocks), source.name)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=samples.T.tobytes(), capture_output=True, check=True)
    assert done.stdout.decode().split() == [str(np.abs(samples.astype(int)).sum()), "<stdin>"]


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("tcp:9000", UsageError, "tcp:HOST:PORT"),
        ("tcp:127.0.0.1:1", AudioError, "start what gives the samples first"),
        ("tcp:127.0.0.1:99999", AudioError, "start what gives the samples first"),
        ("absent.wav", AudioError, "no such file"),
    ],
)
def test_a_source_that_cannot_be_had_is_named(source, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says), open_source(SourceOptions(source=source)):
        pass


def test_a_machine_without_a_microphone_says_what_is_missing():
    """No machine of the tests has a microphone; most have no PortAudio either."""
    if os.environ.get("FARVOX_MICROPHONE"):
        pytest.skip("this machine has one")
    with pytest.raises(FarvoxError, match=r"sounddevice|PortAudio"), open_source(SourceOptions()):
        pass


ALSA = 'pcm.spoken { type file; slave.pcm "null"; file "/dev/null"; infile "%s"; format "raw" }\n'


@pytest.mark.skipif(not ctypes.util.find_library("portaudio"), reason="needs PortAudio: libportaudio2")
def test_samples_of_a_microphone_come_as_they_were_spoken(tmp_path):
    """The microphone is a file that ALSA plays, which the user's settings make a device of."""
    spoken = np.random.default_rng(1).uniform(-0.5, 0.5, 16000).astype(np.float32)
    spoken.tofile(tmp_path / "spoken.raw")
    (tmp_path / ".asoundrc").write_text(ALSA % (tmp_path / "spoken.raw"))
    script = (
        "import numpy as np, sounddevice, sys\nfrom farvox.verifier.sources import *\n"
        "[number] = [d['index'] for d in sounddevice.query_devices() if d['name'] == 'spoken']\n"
        "heard, count = [], 0\n"
        "with open_source(SourceOptions(source=f'microphone:{number}')) as source:\n"
        "    for block, _ in source.blocks:\n"
        "        heard.append(block)\n"
        "        if (count := count + block.shape[1]) >= 8000:\n"
        "            break\n"
        "np.save('heard.npy', np.concatenate(heard, axis=1))\n"
    )
    command, home = [sys.executable, "-c", script], {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=home, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "heard.npy")[0, :8000], spoken[:8000])
