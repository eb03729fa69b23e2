"""Streams over a WebSocket, from a client of its own."""

import json
import signal
import socket
from contextlib import contextmanager
from itertools import pairwise
from shutil import copytree

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from farvox.zoo.card import Calibration, Card, SequentialTest
from service.client import serving


@pytest.fixture(scope="module")
def model(model_folder, tmp_path_factory):
    """The small model with a sequential test that says "same" at its second look, whatever it hears."""
    folder = tmp_path_factory.mktemp("sequential") / "small"
    copytree(model_folder, folder)
    test = SequentialTest(0.01, 0.05, same=(2.0, -1.0), different=(-2.0, -2.0))
    Card(name="small", threshold=0.5, calibration=Calibration(10.0, -5.0), sequential=test).save(folder)
    return folder


@pytest.fixture(scope="module")
def service(model, tmp_path_factory):
    with serving(model, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def spoken(voices):
    """Some 5 s of one speaker, 16 bit."""
    wav_T = np.concatenate([read_audio(voices / f"a{take}.wav") for take in range(3)])
    return np.rint(32767 * wav_T).astype("<i2")


@contextmanager
def stream(service, first, *recordings, **options):
    """An open stream; its first answer has been read where there are recordings."""
    with connect(f"ws://127.0.0.1:{service.port}/v1/listen", max_size=None, **options) as socket:
        if first is not None:
            socket.send(first if isinstance(first, str) else json.dumps(first))
        for recording in recordings:
            socket.send(recording)
        yield socket


def rest_of(socket):
    """The remaining messages, and the code that closes the connection."""
    found = []
    try:
        while True:
            found.append(json.loads(socket.recv()))
    except ConnectionClosed as end:
        return found, end.rcvd.code


@pytest.mark.parametrize("to_end", [False, True])
def test_a_stream_is_answered_as_by_the_command_line(
    service, model, voices, spoken, tmp_path, capsys, to_end
):
    write_audio(tmp_path / "stream.wav", spoken / np.float32(32768))
    words = ["--source", str(tmp_path / "stream.wav"), "--vad", "off", "--model", str(model), "--json"]
    main(["listen", str(voices / "b0.wav"), str(voices / "b1.wav"), *words, *["--to-end"] * to_end])
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    recordings = [(voices / f"b{n}.wav").read_bytes() for n in range(2)]
    with stream(service, {"enrol": 2, "to_end": to_end}, *recordings) as socket:
        begun = json.loads(socket.recv())
        assert [each["name"] for each in begun["enrol"]] == ["enrol 0", "enrol 1"]
        content = spoken.tobytes()
        cuts = [n + n // 1600 % 2 for n in range(0, len(content) + 1600, 1600)]  # within samples
        for begin, end in pairwise(cuts):
            try:
                socket.send(content[begin:end])
            except ConnectionClosed:
                break  # it has decided
        else:
            if to_end:
                socket.send("end")
        found, code = rest_of(socket)
    assert code == 1000
    assert len(found) == len(expected) == 1 + (int(len(spoken) / 16000) if to_end else 2)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("score", "probability"):
            assert ours.pop(name) == pytest.approx(theirs.pop(name), abs=1e-5)
        for name in ("real_time_factor", "latest_look"):
            theirs.pop(name, None)
        for told in (ours, theirs):
            told["test"] = [{**each, "name": ""} for each in told.get("test", ())]
        assert ours == theirs
    assert found[-1]["decision"] == "same"


def test_samples_of_an_array_are_taken_in_any_encoding(service, voices, spoken):
    enrol = (voices / "a1.wav").read_bytes()
    scores = []
    for encoding, samples_T in (("s16le", spoken), ("f32le", (spoken / 32768).astype("<f4"))):
        first = {"rate": 16000, "channels": 2, "encoding": encoding, "to_end": True}
        with stream(service, first, enrol) as socket:
            socket.send(np.stack([samples_T, samples_T], axis=1).tobytes())
            socket.send("end")
            found, code = rest_of(socket)
        assert (code, found[-1]["test"][0]["num_channels"]) == (1000, 2)
        scores.append(found[-1]["score"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("messages", "status", "code", "closed"),
    [
        (["no JSON"], 422, "parameter", 1008),
        (["[]"], 422, "parameter", 1008),
        ([b"{}"], 422, "parameter", 1008),
        (['{"rate": 1}'], 422, "parameter", 1008),
        (['{"channels": 65}'], 422, "parameter", 1008),
        (['{"encoding": "mp3"}'], 422, "parameter", 1008),
        (['{"enrol": 0}'], 422, "parameter", 1008),
        (['{"more": 1}'], 422, "parameter", 1008),
        (["{}", "end"], 422, "parameter", 1008),
        (["{}", "hello"], 422, "parameter", 1008),
        (["{}", b"no audio"], 422, "unusable-audio", 1008),
        (["{}", "a0", "end"], 422, "unusable-audio", 1008),  # nothing came
        (["{}", "a0", b"\0\0" * 800, "end"], 422, None, 1008),
        (['{"encoding": "f32le"}', "a0", b"\0\0\xc0\x7f" * 16000], 422, "unusable-audio", 1008),  # NaN
        (["{}", bytes(6_000_000), bytes(6_000_000)], None, None, None),
        (['{"enrol": 2}', bytes(6_000_000), bytes(6_000_000)], 413, "too-large", 1009),
    ],
)
def test_what_cannot_be_answered_is_told_and_ends_the_stream(service, voices, messages, status, code, closed):
    with stream(service, None) as socket:
        try:
            for message in messages:
                socket.send((voices / "a0.wav").read_bytes() if message == "a0" else message)
        except ConnectionClosed:
            pass
        found, ended = rest_of(socket)
    assert ended in (1008, 1009) if closed is None else ended == closed
    if status is not None:
        assert found[-1]["status"] == status and (code is None or found[-1]["code"] == code), found
    assert service.ask("GET", "health")[0] == 200


def test_a_message_that_is_too_large_and_one_that_does_not_come_end_the_stream(service):
    with stream(service, "{}") as socket:
        socket.send(iter([bytes(1_000_000)] * 11))  # in fragments
        assert rest_of(socket)[1] == 1009
    with stream(service, "{}") as socket:  # no recording follows
        (told,), code = rest_of(socket)
    assert (told["code"], code) == ("slow", 1008)


def test_a_client_that_does_not_answer_the_close_is_left(service):
    lines = ["GET /v1/listen HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
    with socket.create_connection(("127.0.0.1", service.port), timeout=120) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 101")
        connection.sendall(b"\x81\x82\0\0\0\0[]")  # a text, masked by zeros
        found = b"".join(iter(lambda: connection.recv(1000), b""))
    assert b"a JSON object" in found and b"\x88\x0b\x03\xf0parameter" in found  # 1008


def test_what_is_longer_than_allowed_is_noted(service, voices, spoken):
    with stream(service, {"to_end": True}, (voices / "a0.wav").read_bytes()) as socket:
        try:
            socket.send(np.tile(spoken, 14).tobytes())
            socket.send("end")
        except ConnectionClosed:
            pass
        found, code = rest_of(socket)
    assert code == 1000 and found[-1]["test"][0]["seconds"] == 60
    assert "longest" in [note["code"] for note in found[-1]["test"][0]["notes"]]


def test_streams_leave_room_for_requests_and_end_with_the_service(model, voices, tmp_path):
    enrol = (voices / "a0.wav").read_bytes()
    words = ("--in-flight", "2", "--behind-proxy")
    with serving(model, tmp_path, *words) as service, stream(service, "{}", enrol) as first:
        json.loads(first.recv())
        assert service.ask("GET", "health", Host="voices.example")[0] == 200
        with stream(service, "{}", enrol) as second:  # of two places, streams have one
            (told,), code = rest_of(second)
        assert (told["status"], told["code"], code) == (503, "busy", 1013)
        assert "farvox_in_flight 1.0" in service.ask("GET", "metrics")[1]
        assert service.send("verify", ("enrol", enrol), ("test", enrol))[0] == 200
        assert (
            'farvox_requests_total{path="/v1/listen",status="1013"} 1.0' in service.ask("GET", "metrics")[1]
        )
        service.process.send_signal(signal.SIGTERM)
        assert rest_of(first) == ([], 1012)
        assert service.process.wait(60) == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),  # another port
        ({"Origin": "http://evil.example:{port}", "Host": "evil.example:{port}"}, 421),  # a name of its own
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://localhost:{port}", "Host": "LocalHost:{port}"}, 200),
        ({"Origin": "http://[::1]:{port}", "Host": "[::1]:{port}"}, 200),
    ],
)
def test_pages_of_others_are_refused_by_whatever_name_they_come(service, voices, headers, status):
    told = {name: text.format(port=service.port) for name, text in headers.items()}
    recording = (voices / "a0.wav").read_bytes()
    found = service.ask("POST", "identify", recording, token=None, **told)
    assert found[0] == (401 if status == 200 else status)
    assert found[1]["code"] == {403: "origin", 421: "host", 200: "token"}[status]
    if "Host" not in told:  # which the client writes itself
        try:
            with connect(f"ws://127.0.0.1:{service.port}/v1/listen", origin=told["Origin"]):
                assert status == 200
        except InvalidStatus as refused:
            assert refused.response.status_code == status
