"""The service under load, and under all that strangers do to keep others out."""

import http.client
import io
import json
import os
import random
import re
import resource
import selectors
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import combinations, cycle, islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="needs the extra serve")

from farvox import Verifier
from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from service.client import TOKEN, certificate, multipart, serving

CLIENTS = 32
ADDRESS = r"farvox serve: https?://\S+/v1/, and a page for people at https?://\S+/"
QUIET = re.compile(ADDRESS + r"|.*: writing graph.*")


@contextmanager
def watched(model, folder, *words):
    """A service in whose log there is nothing but its address, and no socket is left open."""
    with serving(model, folder, *words) as service:
        yield service
        until(lambda: service.num_sockets <= 3, "connections are left open")
    strange = [line for line in (folder / "log").read_text().splitlines() if not QUIET.fullmatch(line)]
    assert strange == []


def until(holds, complaint, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, complaint
        time.sleep(0.1)


def family(pid):
    """A process and all that it has started, and these."""
    found = [pid]
    for each in found:
        for path in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def megabytes(pid):
    """Memory of all these processes; what they share is counted once."""
    total = 0
    for each in family(pid):
        rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[1])
    return total / 1024


def processor_seconds(pid):
    """Processor time of all these processes so far."""
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def flac(wav_T, rate=16000):
    file = io.BytesIO()
    soundfile.write(file, wav_T, rate, format="FLAC")
    return file.getvalue()


def wav_of(rate, seconds, channels=1):
    """Zeros as a WAV file whose header has such a rate."""
    count = rate * seconds * channels * 2
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    riff = struct.pack("<4sI4s", b"RIFF", 36 + count, b"WAVE")
    return riff + kind + struct.pack("<4sI", b"data", count) + bytes(count)


def as_printed(words, model, capsys):
    capsys.readouterr()
    main([*map(str, words), "--model", str(model), "--vad", "off", "--json"])
    return json.loads(capsys.readouterr().out)


def codes(sides):
    return [[note["code"] for note in side["notes"]] for side in sides]


def equals(expected):
    """Whether an answer is the command line's: the numbers to 1e-5, decisions, notes and the rest exactly."""

    def check(status, found):
        if status != 200:
            return False
        for key, value in expected.items():
            if key in ("enrol", "test"):
                is_equal = codes(found[key]) == codes(value)
            elif key == "candidates":
                ours, theirs = (
                    [(each["name"], each["score"]) for each in side] for side in (value, found[key])
                )
                is_equal = [name for name, _ in ours] == [name for name, _ in theirs]
                is_equal &= np.allclose([s for _, s in ours], [s for _, s in theirs], rtol=0, atol=1e-5)
            else:
                is_equal = found[key] == (
                    pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
                )
            if not is_equal:
                return False
        return True

    return check


def answers(*expected):
    """Whether it is one of these: a status, or a status with a code."""

    def check(status, found):
        return status in expected or (isinstance(found, dict) and (status, found.get("code")) in expected)

    return check


def good_requests(service, model, recordings, capsys):
    """Method, path, body, headers, and a check of the answer: those that the command line answers, too."""
    contents = {path: path.read_bytes() for path in recordings}
    enrolled = recordings[::3]
    for number, path in enumerate(enrolled):
        body, kind = multipart([("audio", contents[path])])
        assert service.ask("POST", f"enrol?name=p{number}", body, **{"Content-Type": kind})[0] == 200
    for one, other in islice(combinations(recordings, 2), 15):
        expected = as_printed(["verify", one, other], model, capsys)
        body, kind = multipart([("enrol", contents[one]), ("test", contents[other])])
        yield "POST", "verify", body, {"Content-Type": kind}, equals(expected)
    for path in recordings:
        expected = as_printed(["identify", path, "--store", service.store], model, capsys)
        yield "POST", "identify", contents[path], {}, equals(expected)


def bad_requests(recordings):
    """Likewise, with a check of the refusal; and a few that are good, with answers of their own."""
    content = recordings[0].read_bytes()
    body, kind = multipart([("enrol", content)])
    told = {"Content-Type": kind}
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    rng = np.random.default_rng(0)
    broken = bytearray(flac(0.1 * rng.standard_normal(32000)))
    broken[2000:3000] = rng.bytes(1000)
    yield "POST", "embed", b"", {}, answers((422, "unusable-audio"))
    yield "POST", "embed", rng.bytes(5000), {}, answers((422, "unusable-audio"))
    yield "POST", "embed", content[:100], {}, answers((422, "unusable-audio"), (422, "too-short"))
    yield "POST", "embed", bytes(broken), {}, answers(200, (422, "unusable-audio"))
    yield "POST", "identify", flac(np.zeros(32000)), {}, answers((422, "no-speech"))
    yield "POST", "embed", flac(0.1 * rng.standard_normal(800)), {}, answers((422, "too-short"))
    yield "POST", "embed", flac(np.zeros(61 * 16000)), {}, answers((413, "too-large"))
    yield "POST", "embed", flac(np.zeros(3600 * 8000, np.int16), 8000), {}, answers((413, "too-large"))
    yield "POST", "embed", content, {"Authorization": "Bearer none"}, answers((401, "token"))
    yield "DELETE", "speakers?name=p0", None, {"Authorization": "Basic eDp5"}, answers((401, "token"))
    yield "DELETE", "speakers?name=nobody", None, {}, answers((409, "speaker"))
    yield "POST", "enrol?name=%00", body, told, answers(409, 422)
    yield "POST", "enrol?name=p0", *multipart_of("audio", content), answers((409, "speaker"))
    yield "POST", "verify", body, told, answers((422, "unusable-audio"))
    yield "POST", "verify?threshold=2", body, told, answers((422, "parameter"))
    yield "POST", "verify?threshold=nan", body, told, answers((422, "parameter"))
    yield "POST", "verify", b"--x\r\nno part at all", form, answers((422, "unusable-audio"))
    yield "POST", "verify", b"--x\r\n" * 1000, form, answers((422, "unusable-audio"))
    yield "POST", "identify?top=1000", content, {}, answers((422, "parameter"))
    yield "GET", "embed", None, {}, answers((405, "method"))
    yield "GET", "../../etc/passwd", None, {}, answers((404, "not-found"))
    yield "GET", "x" * 5000, None, {}, answers((404, "not-found"))
    yield "GET", "health", None, {}, answers(200)
    yield "GET", "ready", None, {}, answers(200)
    yield "GET", "metrics", None, {}, answers(200)
    yield "GET", "speakers", None, {}, answers(200)
    yield "POST", "embed", content, {}, answers(200)


def multipart_of(name, content):
    body, kind = multipart([(name, content)])
    return body, {"Content-Type": kind}


def hang_up(service):
    """Leave in the middle of a body."""
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"POST /v1/verify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\nxyz")


def nonsense(service, rng):
    """Send what is no HTTP, and take what comes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection, suppress(OSError):
        connection.sendall(
            rng.choice(
                (
                    rng.randbytes(500),
                    b"GET / HTTP/9.9\r\n\r\n",
                    b"POST /v1/embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
                    b"POST /v1/embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                    b"POST /v1/embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n"
                    b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /v1/health HTTP/1.1\r\n\r\n",
                    b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 100_000,
                )
            )
        )
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
        assert not answer.startswith(b"HTTP/1.1 5"), answer


class Load:
    """Threads that ask one service, each over a connection of its own."""

    def __init__(self, service):
        self.service = service
        self.own = threading.local()
        self.found = Counter()
        self.seconds = []

    def ask(self, request):
        """Send a request, and note the answer; one that is told to come again does."""
        method, path, body, headers, check = request
        connection = getattr(self.own, "connection", None) or self.service.connect()
        self.own.connection = connection
        begin = time.monotonic()
        try:
            token = None if "Authorization" in headers else TOKEN
            status, found, told = self.service.ask(
                method, path, body, connection=connection, token=token, **headers
            )
        except (http.client.RemoteDisconnected, ConnectionError):  # kept open, and idle for too long
            connection.close()
            self.found["connections closed"] += 1
            return
        seconds = time.monotonic() - begin
        if status == 503:
            assert found["code"] == "busy"
            self.found["busy"] += 1
            time.sleep(float(told["retry-after"]))
        elif status >= 500 or not check(status, found):
            self.found[f"wrong: {method} {path[:40]} {status} {str(found)[:300]}"] += 1
        elif check.__qualname__.startswith("equals"):
            self.found["equal to the command line's"] += 1
            if path == "verify":
                self.seconds.append(seconds)
        else:
            self.found["refused or other"] += 1

    def __call__(self, requests):
        """Ask all of them, so many at a time."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in pool.map(self.ask, requests):
                pass

            def close(_):
                barrier.wait()
                if connection := getattr(self.own, "connection", None):
                    connection.close()

            barrier = threading.Barrier(CLIENTS)
            list(pool.map(close, range(CLIENTS)))


@pytest.fixture
def people(campplus, corpora, tmp_path):
    """Two recordings of some seconds of each of six children."""
    for folder in sorted((corpora / "speechocean762/WAVE").iterdir())[100:106]:
        wavs = [read_audio(path) for path in sorted(folder.iterdir())]
        for number in range(2):
            write_audio(
                tmp_path / f"people-{folder.name}-{number}.wav", np.concatenate(wavs[2 * number :][:2])
            )
    return campplus, sorted(tmp_path.glob("people-*.wav"))


@pytest.fixture
def made_up(model_folder, voices):
    """The small model, and recordings of two voices."""
    return model_folder, sorted(voices.glob("*.wav"))


@pytest.mark.parametrize(("which", "count"), [("made_up", 10_000), ("people", 1_000)])
def test_mixed_requests_are_answered_as_by_the_command_line(which, count, request, tmp_path, capsys, tell):
    model, recordings = request.getfixturevalue(which)
    count = int(os.environ.get("FARVOX_REQUESTS", count))
    rng = random.Random(0)
    verifier = Verifier.from_pretrained(model, vad="off")
    begin = time.process_time()
    bare = [timed(verifier.verify, str(recordings[0]), str(recordings[1])) for _ in range(30)]
    processor = {"bare verify": (time.process_time() - begin) / 30}
    with pytest.MonkeyPatch.context() as patch, watched(model, tmp_path / "s") as service:
        patch.setenv("FARVOX_KEYS", str(tmp_path / "s/keys"))
        good, bad = list(good_requests(service, model, recordings, capsys)), list(bad_requests(recordings))
        alone, begin = Load(service), processor_seconds(service.process.pid)
        for each in islice(cycle(good[:15]), 60):
            alone.ask(each)
        alone.own.connection.close()
        processor["served"] = (processor_seconds(service.process.pid) - begin) / 60

        def mixed(number):
            for _ in range(number):
                yield rng.choice(good if rng.random() < 0.7 else bad)

        Load(service)(mixed(count // 10))  # caches fill, workers start
        until(lambda: "farvox_in_flight 0.0" in service.ask("GET", "metrics")[1], "in flight")
        before = megabytes(service.process.pid)
        load, begin, used = Load(service), time.monotonic(), processor_seconds(service.process.pid)
        ends = threading.Event()

        def disturb():
            own = random.Random(1)
            while not ends.wait(1):
                hang_up(service)
                nonsense(service, own)

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            load(mixed(count))
        finally:
            ends.set()
            disturber.join()
        rate = count / (time.monotonic() - begin)
        processor["of the mixed ones"] = (processor_seconds(service.process.pid) - used) / count
        until(lambda: "farvox_in_flight 0.0" in service.ask("GET", "metrics")[1], "in flight")
        growth = megabytes(service.process.pid) - before
    times = {"bare computation": bare, "one client": alone.seconds, f"{CLIENTS} clients": load.seconds}
    spread = {
        name: " / ".join(f"{1000 * np.percentile(found, part):.0f}" for part in (50, 99)) + " ms"
        for name, found in times.items()
    }
    tell(
        f"{count} requests, {Path(model).name}",
        **load.found,
        MB=f"{growth:+.1f} to {before:.0f}",
        rate=f"{rate:.0f}/s",
    )
    tell(f"verify, p50 / p99, {Path(model).name}", **spread)
    each = {name: f"{1000 * seconds:.0f} ms" for name, seconds in processor.items()}
    tell(f"processor time of one request, {Path(model).name}", **each)
    assert [what for what in load.found if what.startswith("wrong")] == []
    assert load.found["busy"] <= count / 100
    assert load.found["equal to the command line's"] >= count / 2
    assert growth < 50


def timed(function, *words):
    begin = time.monotonic()
    function(*words)
    return time.monotonic() - begin


def half_open():
    """What is sent over connections that then say nothing more, and read."""
    to_embed = b"POST /v1/embed HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %s\r\n" % TOKEN.encode()
    yield b""
    yield b"GET /v1/hea"
    yield b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nx-half: "
    yield to_embed + b"content-length: 100000\r\n\r\n"
    yield to_embed + b"content-length: 100000\r\n\r\n" + bytes(50_000)
    yield to_embed + b"transfer-encoding: chunked\r\n\r\nff\r\n" + bytes(100)
    yield to_embed + b"expect: 100-continue\r\ncontent-length: 100000\r\n\r\n"
    yield b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /v1/hea"
    yield b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n"  # kept open, and idle
    to_listen = (
        b"GET /v1/listen HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    yield to_listen
    yield to_listen + b"\r\n"
    yield to_listen + b"\r\n" + b"\x82\xff" + bytes(20)  # half of a frame


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_thousand_half_open_connections_are_closed_and_keep_nobody_out(scheme, made_up, tmp_path, tell):
    model, recordings = made_up
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    words = certificate(tmp_path) if scheme == "https" else ()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    hello = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    hello = hello.read()
    body, kind = multipart([("enrol", recordings[0].read_bytes()), ("test", recordings[1].read_bytes())])

    with watched(model, tmp_path / "s", *words) as service, ExitStack() as stack:

        def good():
            connection = service.connect()
            if scheme == "https":
                connection = http.client.HTTPSConnection(
                    "127.0.0.1", service.port, context=context, timeout=120
                )
            headers = {"Content-Type": kind}
            try:
                assert service.ask("POST", "verify", body, connection=connection, **headers)[0] == 200
            finally:
                connection.close()

        def connect(sent, shakes_hands):
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
            if shakes_hands:
                connection = context.wrap_socket(connection)
            stack.enter_context(connection)
            connection.sendall(sent)
            connection.setblocking(False)
            return connection, time.monotonic()

        usual = np.median([timed(good) for _ in range(9)])
        before = service.num_sockets
        kinds = [(sent, scheme == "https") for sent in half_open()]
        if scheme == "https":
            kinds += [(b"", False), (hello[:20], False), (hello, False)]
        meanwhile, closed = [], [0.0] * len(kinds)
        selector = stack.enter_context(selectors.DefaultSelector())
        pool = stack.enter_context(ThreadPoolExecutor(1))

        def note_closed(wait):
            for key, _ in selector.select(wait):
                with suppress(BlockingIOError, ssl.SSLWantReadError):
                    try:
                        if key.fileobj.recv(100_000):
                            continue
                    except (ConnectionResetError, ssl.SSLEOFError):
                        pass
                    which, begin = key.data
                    closed[which] = max(closed[which], time.monotonic() - begin)
                    selector.unregister(key.fileobj)

        for number in range(1000):
            which = number % len(kinds)
            connection, begin = connect(*kinds[which])
            selector.register(connection, selectors.EVENT_READ, (which, begin))
            note_closed(0)
            if number % 200 == 199:
                asked = pool.submit(timed, good)
                while not asked.done():
                    note_closed(0.02)
                meanwhile.append(asked.result())
        asks = b"GET /v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2000
        for _ in range(3):
            connect(asks, scheme == "https")  # and never reads
        end = time.monotonic() + 60
        while selector.get_map():
            note_closed(1)
            assert time.monotonic() < end, f"{len(selector.get_map())} half-open connections are left"
        until(lambda: service.num_sockets <= before, "connections that read nothing are left", 120)
        tell(
            f"1000 half-open connections, {scheme}, of {len(kinds)} kinds",
            **{"closed after at most": f"{max(closed):.1f} s", "usual": f"{usual:.2f} s"},
            meanwhile=f"{max(meanwhile):.2f} s",
        )
        assert max(meanwhile) < usual + 2
        assert max(closed) <= 10, closed


OPUS = ("-c:a", "libopus", "-compression_level", "0")


def bombs(folder):
    """Recordings that are small and would become large, by name."""

    def ffmpeg(name, *words):
        path = folder / name
        noisy = ["-f", "lavfi", "-i", "anoisesrc=r=8000:a=0.1"] if "noise" in name else []
        silent = ["-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono"]
        subprocess.run(["ffmpeg", "-v", "error", *(noisy or silent), *words, str(path)], check=True)
        return path.read_bytes()

    zeros = flac(np.zeros(3600 * 8000, np.int16), 8000)
    yield "an hour of silence", zeros
    yield (
        "the same, and its length is not told",
        zeros[:21] + bytes([zeros[21] & 0xF0]) + bytes(4) + zeros[26:],
    )
    yield "an hour of noise", ffmpeg("noise.opus", "-t", "3600", *OPUS, "-b:a", "8k")
    yield "an hour of Opus", ffmpeg("silent.ogg", "-t", "3600", *OPUS, "-b:a", "6k")
    yield "an hour of AAC without a header", ffmpeg("silent.aac", "-t", "3600", "-c:a", "aac", "-b:a", "8k")
    yield (
        "an hour in a live stream",
        ffmpeg("live.webm", "-t", "3600", *OPUS, "-b:a", "6k", "-live", "1"),
    )
    yield "many channels", flac(np.zeros((59 * 96_000, 8), np.int16), 96_000)
    yield "a rate that is not", wav_of(rate=1, seconds=59 * 48000)
    yield "many channels of a rate that is not", wav_of(rate=8, seconds=59, channels=10_000)


def test_bombs_are_refused_as_documented(made_up, tmp_path, tell):
    model, recordings = made_up
    told = {}
    with watched(model, tmp_path / "s") as service:
        assert service.ask("POST", "embed", recordings[0].read_bytes())[0] == 200
        before = megabytes(service.process.pid)
        for name, content in bombs(tmp_path):
            begin, peak, found = time.monotonic(), before, []
            thread = threading.Thread(
                target=lambda c=content, f=found: f.append(service.ask("POST", "embed", c))
            )
            thread.start()
            while thread.is_alive():
                with suppress(OSError, TypeError):
                    peak = max(peak, megabytes(service.process.pid))
                thread.join(0.1)
            status, answer, _ = found[0]
            told[name] = (
                f"{status} {answer.get('code')} in {time.monotonic() - begin:.1f} s, +{peak - before:.0f} MB"
            )
            assert (status, answer["code"]) in (
                (413, "too-large"),
                (422, "unusable-audio"),
                (422, "no-speech"),
            ), name
        assert service.ask("POST", "embed", recordings[0].read_bytes())[0] == 200
        growth = megabytes(service.process.pid) - before
    for name, how in told.items():
        tell(f"bomb: {name}", answer=how)
    tell("bombs", left=f"{growth:+.0f} MB")
    assert growth < 300


def test_schemathesis_finds_nothing(made_up, tmp_path, tell):
    program = shutil.which("schemathesis")
    if program is None:
        pytest.skip("needs schemathesis, in an environment of its own whose bin folder is on PATH")
    model, recordings = made_up
    with watched(model, tmp_path / "s") as service:
        done = subprocess.run(
            [
                *(program, "run", f"http://127.0.0.1:{service.port}/v1/openapi.json", "--checks", "all"),
                *("--header", f"Authorization: Bearer {TOKEN}", "--request-timeout", "60", "--no-shrink"),
                *("--max-examples", "100", "--continue-on-failure", "--suppress-health-check", "all"),
            ],
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
                "PYTHONPATH": str(Path(__file__).parent),
                "FARVOX_RECORDINGS": str(recordings[0].parent),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    cases = re.search(r"(\d+) generated", done.stdout)[1]
    tell("schemathesis, all checks", cases=cases, failures=0)
