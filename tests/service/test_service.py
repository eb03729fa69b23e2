"""The service in a process of its own, asked over a socket."""

import http.client
import io
import json
import re
import signal
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="needs the extra serve")

from farvox.cli.main import main
from farvox.errors import UsageError
from farvox.service.options import ServeOptions
from farvox.verifier import SqliteStore
from service.client import certificate, multipart, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def service(model_folder, tmp_path_factory):
    with serving(model_folder, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def wav(voices):
    return {path.stem: path.read_bytes() for path in sorted(voices.glob("*.wav"))}


def sound(wav_T, rate=16000, kind="FLAC", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, wav_T, rate, format=kind, subtype=subtype)
    return file.getvalue()


def without_names(answer):
    return {
        key: [{k: v for k, v in each.items() if k != "name"} for each in value]
        if key in ("enrol", "test")
        else value
        for key, value in answer.items()
    }


def test_two_recordings_are_answered_as_by_the_command_line(service, model_folder, voices, wav, capsys):
    for enrol, test, words, query in (
        (["a0"], "a1", (), ""),
        (["a0", "a1"], "b0", ("--strict",), "?strict=true"),
        (["a0"], "a0", ("--threshold", "0.9999"), "?threshold=0.9999"),
    ):
        files = [str(voices / f"{name}.wav") for name in (*enrol, test)]
        main(["verify", "--model", str(model_folder), "--vad", "off", *files, "--json", *words])
        printed = capsys.readouterr().out
        for n, file in enumerate(files[:-1]):
            printed = printed.replace(file, "enrol" if len(files) == 2 else f"enrol {n}")
        expected = json.loads(printed)
        sides = [*(("enrol", wav[name]) for name in enrol), ("test", wav[test])]
        status, found, _ = service.send(f"verify{query}", *sides, token=None)
        assert status == 200
        assert found.pop("score") == pytest.approx(expected.pop("score"), abs=1e-5)
        assert found.pop("probability") == pytest.approx(expected.pop("probability"), abs=1e-5)
        assert without_names(found) == without_names(expected)


def test_speakers_are_enrolled_identified_listed_and_forgotten(service, wav):
    for name in "ab":
        status, made, _ = service.send(
            f"enrol?name={name}", ("audio", wav[f"{name}0"]), ("audio", wav[f"{name}1"])
        )
        assert (status, made["name"], made["num_recordings"]) == (200, name, 2)
    again = service.send("enrol?name=a", ("audio", wav["a0"]))
    assert (again[0], again[1]["code"]) == (409, "speaker") and "already" in again[1]["detail"]
    assert service.send("enrol?name=a&replace=true", ("audio", wav["a0"]))[0] == 200
    status, found, _ = service.ask("POST", "identify?threshold=-1", wav["a0"])
    assert (status, found["name"], found["num_speakers"]) == (200, "a", 2)
    assert [each["name"] for each in service.ask("GET", "speakers")[1]] == ["a", "b"]
    assert service.ask("DELETE", "speakers?name=a")[:2] == (200, {"forgotten": 1})
    assert service.ask("DELETE", "speakers?name=a")[0] == 409
    assert [each["name"] for each in service.ask("GET", "speakers")[1]] == ["b"]
    assert service.ask("DELETE", "speakers?name=b")[0] == 200
    status, emb, _ = service.ask("POST", "embed", wav["a0"])
    assert status == 200 and np.linalg.norm(emb["embedding"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("token", [None, "", "wrong", "é" * 20])
def test_templates_are_neither_changed_nor_revealed_without_the_token(service, wav, token):
    files = [("audio", wav["a0"])]
    body, kind = multipart(files)
    for method, path, content in (
        ("POST", "enrol?name=eve", body),
        ("POST", "identify", wav["a0"]),
        ("POST", "embed", wav["a0"]),
        ("GET", "speakers", None),
        ("DELETE", "speakers?name=a", None),
    ):
        told = {"Content-Type": kind}
        given = token.encode() if token else token
        headers = {"Authorization": b"Bearer " + given} if given else {}
        status, answer, found = service.ask(method, path, content, token=None, **told, **headers)
        assert (status, answer["code"], found["www-authenticate"]) == (401, "token", "Bearer")


def test_what_cannot_be_answered_has_a_code(service, wav):
    silence, short = np.zeros(32000), 0.1 * np.ones(1600)
    for content, status, code in (
        (b"", 422, "unusable-audio"),
        (b"no audio" * 100, 422, "unusable-audio"),
        (wav["a0"][:1000] + b"", 422, None),
        (sound(silence), 422, "no-speech"),
        (sound(short), 422, "too-short"),
    ):
        found = service.ask("POST", "embed", content)
        assert found[0] == status and (code is None or found[1]["code"] == code), found
        assert found[2]["content-type"] == "application/problem+json"
    assert service.send("verify", ("enrol", wav["a0"]))[1]["detail"].startswith("the body has no file 'test'")
    assert service.ask("POST", "verify", wav["a0"])[:1] == (422,)
    assert (
        service.ask("POST", "verify", b"--x", **{"Content-Type": "multipart/form-data; boundary=y"})[0] == 422
    )
    assert service.ask("POST", "verify", b"x", **{"Content-Type": "multipart/form-data"})[0] == 422
    assert service.send("enrol?name=%00", ("audio", wav["a0"]))[0] == 409
    assert service.send("enrol", ("audio", wav["a0"]))[1]["code"] == "parameter"
    assert service.ask("POST", "identify?top=0", wav["a0"])[0] == 422
    assert service.ask("GET", "nothing")[0] == 404
    assert service.ask("GET", "embed")[0] == 405
    assert service.ask("POST", "identify", wav["a0"])[1]["code"] == "speaker"  # nobody is enrolled


def test_what_is_too_large_is_refused(service):
    hour = sound(np.zeros(3600 * 8000, np.int16), 8000)  # 1 hour in some kB
    assert len(hour) < 1_000_000
    for content in (hour, sound(np.zeros(61 * 16000))):
        status, answer, _ = service.ask("POST", "embed", content)
        assert (status, answer["code"]) == (413, "too-large") and "at most 60 s" in answer["detail"]
    for large in (bytes(10_000_001), iter([bytes(1_000_000)] * 11)):  # with its length, and in chunks
        try:
            status, answer, _ = service.ask("POST", "embed", large)
            assert (status, answer["code"]) == (413, "too-large")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before all of it was sent
    assert service.ask("GET", "health")[0] == 200


def closed_after(connection):
    """Seconds until the other side closes."""
    begin = time.monotonic()
    connection.settimeout(60)
    try:
        while connection.recv(1000):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - begin


@pytest.mark.slow
def test_a_handshake_that_does_not_end_and_an_answer_that_is_not_read_are_cut(model_folder, tmp_path):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    with serving(model_folder, tmp_path / "s", *certificate(tmp_path)) as service, ExitStack() as stack:
        before = service.num_sockets

        def connect():
            address = ("127.0.0.1", service.port)
            return stack.enter_context(socket.create_connection(address, timeout=60))

        begun = [b"", hello.read()]
        begun.append(begun[-1][:20])
        half = [connect() for _ in begun]
        for connection, sent in zip(half, begun, strict=True):
            connection.sendall(sent)
        done, unread = (stack.enter_context(context.wrap_socket(connect())) for _ in range(2))
        unread.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2000)
        begin = time.monotonic()
        for connection in (*half, done):
            closed_after(connection)
        while service.num_sockets > before:  # it has read nothing, and so sees no end
            assert time.monotonic() - begin < 60
            time.sleep(0.1)


@pytest.mark.slow
def test_connections_that_are_slow_are_closed_and_keep_nobody_out(service, wav):
    body = b"POST /v1/embed HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\nauthorization: Bearer t\r\n\r\n"
    begun = [b"", b"GET /v1/hea", b"GET /v1/health HTTP/1.1\r\nhost: x\r\nx-a: b", body, body + bytes(100)]
    idle = []
    for n in range(200):
        connection = socket.create_connection(("127.0.0.1", service.port))
        connection.sendall(begun[n % len(begun)])
        idle.append(connection)
    dripping = socket.create_connection(("127.0.0.1", service.port))
    dripping.sendall(body)

    def drip():
        try:
            while True:
                dripping.sendall(b"x")
                time.sleep(0.2)
        except OSError:
            pass

    thread = threading.Thread(target=drip)
    thread.start()
    begin = time.monotonic()
    assert service.send("verify", ("enrol", wav["a0"]), ("test", wav["a1"]))[0] == 200
    meanwhile = time.monotonic() - begin
    for connection in (*idle, dripping):
        closed_after(connection)
        connection.close()
    assert time.monotonic() - begin < 30  # 8 s for headers and for a body; the rest for a slow machine
    thread.join()
    begin = time.monotonic()
    assert service.send("verify", ("enrol", wav["a0"]), ("test", wav["a1"]))[0] == 200
    assert meanwhile < time.monotonic() - begin + 2


def test_it_says_how_it_is(service):
    assert service.ask("POST", "embed", b"")[0] == 422
    status, page, headers = service.ask("GET", "metrics", token=None)
    assert status == 200 and headers["content-type"].startswith("text/plain")
    assert 'farvox_requests_total{path="/v1/embed",status="422"}' in page
    assert "farvox_in_flight 0.0" in page
    assert service.ask("GET", "ready", token=None)[1]["model"] == "small"
    described = service.ask("GET", "openapi.json", token=None)[1]
    assert {"/v1/embed", "/v1/verify", "/v1/enrol", "/v1/identify", "/v1/speakers"} <= described[
        "paths"
    ].keys()


def test_the_page_runs_its_own_files_only(service):
    texts = {}
    with closing(service.connect()) as connection:
        for name in ("", "page.css", "page.js", "tape.js"):
            connection.request("GET", f"/{name}")
            answer = connection.getresponse()
            texts[name] = answer.read().decode()
            policy = answer.headers["content-security-policy"]
            assert answer.status == 200 and "default-src 'none'" in policy and "unsafe" not in policy
    assert "a replayed or synthetic voice is not detected" in texts[""]
    assert not re.search(r"<script>|<style|style=|\son\w+=|https?:", texts[""])
    assert not re.search(r"https?:|innerHTML|eval\(|Storage|\.cookie", texts["page.js"] + texts["page.css"])


def test_the_page_on_production_asks_for_metrics_that_there_are(service, wav):
    service.send("verify", ("enrol", wav["a0"]), ("test", wav["a1"]))
    asked = set(re.findall(r"\bfarvox_\w+", (ROOT / "docs/production.md").read_text(encoding="utf-8")))
    assert asked and asked <= set(re.findall(r"\bfarvox_\w+", service.ask("GET", "metrics")[1]))


def test_every_answer_is_described(service):
    paths = service.ask("GET", "openapi.json")[1]["paths"]
    for path, methods in paths.items():
        for method, told in methods.items():
            (schema,) = (
                content.get("schema", {}) for content in told["responses"]["200"]["content"].values()
            )
            assert path == "/v1/metrics" or "$ref" in schema.get("items", schema), (method, path)
        status, _, headers = service.ask("PUT", path.removeprefix("/v1/"))
        assert (status, headers["allow"]) == (405, ", ".join(sorted(map(str.upper, methods))))


def test_who_leaves_in_the_middle_is_counted_and_no_fault(service):
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"POST /v1/verify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx")
    end = time.monotonic() + 60
    while 'farvox_requests_total{path="/v1/verify",status="400"}' not in service.ask("GET", "metrics")[1]:
        assert time.monotonic() < end
    assert "Traceback" not in (service.store.parent / "log").read_text()


@pytest.mark.slow
def test_more_than_are_allowed_are_told_to_come_again_and_a_slow_decoder_is_ended(
    model_folder, tmp_path, wav
):
    words = ("--in-flight", "2", "--workers", "1", "--decode-seconds", "2")
    with serving(model_folder, tmp_path / "s", *words) as service:
        body, kind = multipart([("enrol", wav["a0"]), ("test", wav["b0"])])

        def ask(_):
            return service.ask("POST", "verify", body, **{"Content-Type": kind})

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(64)))
        assert {status for status, _, _ in answers} == {200, 503}
        refused = [headers for status, _, headers in answers if status == 503]
        assert all(headers["retry-after"] == "1" for headers in refused)
        assert len({answer["score"] for status, answer, _ in answers if status == 200}) == 1
    hour = sound(np.tile(np.arange(-8000, 8000, dtype=np.int16), 3600))
    words = ("--max-seconds", "4000", "--decode-seconds", "0.5", "--max-body-mb", "200")
    with serving(model_folder, tmp_path / "t", *words) as hasty:
        status, answer, _ = hasty.ask("POST", "embed", hour)
        assert (status, answer["code"]) == (413, "too-large") and "to decode" in answer["detail"]
        assert hasty.send("verify", ("enrol", wav["a0"]), ("test", wav["b0"]))[0] == 200


@pytest.mark.slow
def test_an_end_waits_for_what_has_begun_and_a_kill_leaves_the_store_whole(model_folder, tmp_path, wav):
    folder = tmp_path / "s"
    with serving(model_folder, folder) as service:
        minute = sound(np.resize(soundfile.read(io.BytesIO(wav["a0"]))[0], 59 * 16000))
        body, kind = multipart([("enrol", minute), ("enrol", minute), ("test", minute)])
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(service.ask, "POST", "verify", body, **{"Content-Type": kind})
            while "farvox_in_flight 0.0" in service.ask("GET", "metrics")[1]:
                assert not asked.done()
            service.process.send_signal(signal.SIGTERM)
            assert asked.result()[0] == 200
        assert service.process.wait(60) == 0
    for delay in (0.0, 0.3):
        with serving(model_folder, folder) as service:
            done = []

            def enrol(service=service, done=done, delay=delay):
                for n in range(1000):
                    try:
                        name = f"{delay} {n:03}"
                        if (
                            service.send(f"enrol?name={name.replace(' ', '%20')}", ("audio", wav["a0"]))[0]
                            == 200
                        ):
                            done.append(name)
                    except (OSError, http.client.HTTPException):
                        return  # it was killed

            thread = threading.Thread(target=enrol)
            thread.start()
            while not done:
                time.sleep(0.01)
            time.sleep(delay)
            service.process.kill()
            thread.join()
    with pytest.MonkeyPatch.context() as patch, SqliteStore(service.store) as store:
        patch.setenv("FARVOX_KEYS", str(folder / "keys"))
        names = [each.name for each in store.listing()]
        assert set(done) <= set(names)
        assert len(store.log()) >= len(names)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"host": "0.0.0.0"}, "give --token-file"),
        ({"host": "0.0.0.0", "token_file": "t"}, "--tls-cert and --tls-key, or say --behind-proxy"),
        ({"tls_cert": "c"}, "give both"),
    ],
)
def test_no_public_address_without_a_token_and_encryption(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        ServeOptions(**options)
    ServeOptions(host="0.0.0.0", token_file="t", behind_proxy=True)
    ServeOptions(host="::", token_file="t", tls_cert="c", tls_key="k")


@pytest.mark.parametrize("token", ["short", "é" * 20])
def test_a_token_that_is_none_is_refused(tmp_path, capsys, token):
    (tmp_path / "token").write_text(token)
    assert main(["serve", "--token-file", str(tmp_path / "token")]) == 2
    assert "a token is 20 characters or more, in ASCII" in capsys.readouterr().err
    assert main(["serve", "--token-file", str(tmp_path / "none")]) == 2
