import multiprocessing
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool

import fsspec
import numpy as np
import pytest
import tomli_w

from farvox.audio import remote
from farvox.audio.files import audio_info, read_audio, write_audio
from farvox.audio.mapped import map_audio
from farvox.audio.remote import put_file, read_range, read_whole, size_of
from farvox.audio.shards import Member, PackedFile, encode, fingerprint, state_of, states_of
from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import AudioError, DataDirError, UnreachableError
from farvox.jobs import digest

CONTENT = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8).tobytes()


@pytest.fixture
def url(bucket, tmp_path):
    """A file in the bucket."""
    (tmp_path / "file").write_bytes(CONTENT)
    put_file(str(tmp_path / "file"), f"{bucket}/some/file")
    return f"{bucket}/some/file"


def test_ranges_are_those_of_the_file(url):
    assert read_whole(url) == CONTENT and size_of(url) == len(CONTENT)
    for start, count in ((0, 10), (500, 64_000), (99_990, 100)):
        assert read_range(url, start, count) == CONTENT[start : start + count]


def test_a_missing_remote_file_is_named(bucket):
    assert size_of(f"{bucket}/nothing") is None
    with pytest.raises(AudioError, match=r"bucket-\d+/nothing \(at http://127.*\): no such file"):
        read_range(f"{bucket}/nothing", 0, 10)
    with pytest.raises(AudioError, match="no such file, or no such bucket"):
        read_whole("s3://no-such-bucket/a.wav")


def test_a_file_that_is_not_packed_is_read_whole(bucket, tmp_path):
    write_audio(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).standard_normal(5000))
    put_file(str(tmp_path / "a.flac"), f"{bucket}/a.flac")
    assert audio_info(f"{bucket}/a.flac").num_samples == 5000
    np.testing.assert_array_equal(
        read_audio(f"{bucket}/a.flac", start=9, num_samples=99), read_audio(tmp_path / "a.flac")[9:108]
    )


@pytest.mark.parametrize(("kind", "seconds", "requests"), [("wav", 5, 1), ("flac", 5, 1), ("flac", 90, 3)])
def test_a_chunk_is_few_requests_of_few_bytes(kind, seconds, requests, bucket, tmp_path, monkeypatch):
    """One, but of a long flac file, whose table of frames is asked for first."""
    pcm_TC = np.random.default_rng(0).integers(-9000, 9000, (16_000 * seconds, 1)).astype(np.int16)
    content = encode(pcm_TC, 16000, kind)
    (tmp_path / "x.tar").write_bytes(bytes(512) + content + bytes(1024))
    put_file(str(tmp_path / "x.tar"), f"{bucket}/x.tar")
    asked = []

    def counted(url, start, count):
        asked.append(count)
        return read_range(url, start, count)

    monkeypatch.setattr("farvox.audio.shards.read_range", counted)
    packed = PackedFile(f"{bucket}/x.tar", Member(kind, 512, len(content), len(pcm_TC), 16000, 1))
    chunk_T = read_audio(str(packed), start=30_000, num_samples=32_000)
    np.testing.assert_array_equal(chunk_T * 32768, pcm_TC[30_000:62_000, 0])
    assert len(asked) == requests
    assert sum(asked) <= (64_000 if kind == "wav" else max(200_000, len(content) // 20))


def test_a_remote_file_that_is_replaced_by_one_as_long_has_another_state(url, tmp_path):
    before = state_of(url)
    assert state_of(url) == before and before.startswith(f"{len(CONTENT)}\t")
    (tmp_path / "file").write_bytes(CONTENT[::-1])
    put_file(str(tmp_path / "file"), url)
    assert state_of(url) != before
    missing = f"{url}-missing"
    assert len({fingerprint([url]), fingerprint([missing])}) == 2  # which has a state, too


def test_a_packed_file_of_another_shard_has_another_state():
    member = Member("wav", 512, 100, 28, 16000, 1)
    states = {state_of(str(PackedFile(f"{where}/00000-{name}.tar", member))) for where, name in (
        ("/here", "a"), ("s3://there", "a"), ("/here", "b"))}  # fmt: skip
    assert len(states) == 2


def _digest(url):
    return read_range(url, 100, 50)


def test_threads_and_processes_of_either_kind_read_at_once(url):
    expected = CONTENT[100:150]
    assert _digest(url) == expected
    with ThreadPool(16) as pool:
        assert pool.map(_digest, [url] * 64) == [expected] * 64
    for kind in ("fork", "spawn"):
        with multiprocessing.get_context(kind).Pool(2) as pool:
            assert pool.map(_digest, [url] * 4) == [expected] * 4


@pytest.fixture
def unreliable(url, way_to_store):
    """The list of faults that the way to the server has from now on, one a request."""
    return way_to_store.faults


@pytest.mark.parametrize("fault", ["hang up", "busy", "cut"])
def test_a_passing_fault_is_tried_again(fault, url, unreliable, monkeypatch):
    assert read_range(url, 7, 50_000) == CONTENT[7:50_007]
    unreliable += [fault, fault]
    assert read_range(url, 7, 50_000) == CONTENT[7:50_007]
    assert unreliable == []


def test_a_lasting_fault_is_an_error(url, unreliable, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 2)
    unreliable += ["hang up"] * 1000
    with pytest.raises(UnreachableError, match=r"some/file \(at http://127.*\): no answer after 2 tries: ."):
        read_range(url, 0, 10)
    unreliable.clear()
    assert read_range(url, 0, 10) == CONTENT[:10]


def test_without_credentials_it_is_said_at_once_and_with_them_the_file_is_read(url, monkeypatch):
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(UnreachableError, match=r"some/file .*: access is refused: .*; check the credentials"):
        read_range(url, 0, 10)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", secret)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    fsspec.filesystem("s3").clear_instance_cache()
    assert read_range(url, 0, 10) == CONTENT[:10]


def test_a_missing_package_is_named_with_its_extra():
    script = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from farvox.errors import MissingExtraError\n"
        "from farvox.audio.files import read_audio\n"
        "try: read_audio('s3://bucket/a.wav')\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert "pip install 'farvox[s3]'" in done.stdout


def test_an_unknown_kind_of_url_is_named():
    with pytest.raises(AudioError, match=r"gopher://a/b\.wav: .*gopher"):
        read_audio("gopher://a/b.wav")


@pytest.fixture
def web(voices):
    """A server of the voices: its address, and the list of all requests that arrive."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(voices))

        def log_message(self, *words):
            self.server.requests.append(self.requestline)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server.requests
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_at_urls_are_asked_for_side_by_side(web, tmp_path, monkeypatch):
    """Each request waits for the others: one after the other they would wait for ever."""
    paths = [f"{web[0]}/{name}.wav" for name in ("a0", "a1", "b0", "b1")]
    expected = [state_of(path) for path in paths]
    together, real = threading.Barrier(len(paths), timeout=20), remote.version_of

    def met(url):
        together.wait()
        return real(url)

    monkeypatch.setattr("farvox.audio.shards.version_of", met)
    assert states_of([*paths, paths[0]]) == [*expected, expected[0]]
    assert fingerprint(paths) == digest(expected)
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))
    assert map_audio(paths, sample_rate=16000).length(0) == audio_info(paths[0]).num_samples
    with pytest.raises(AudioError, match=r"away\.wav"):
        map_audio([*paths[1:], f"{web[0]}/away.wav"], sample_rate=16000)


@pytest.fixture
def far_dir(web, voices, tmp_path):
    """A data dir of an utterance on this machine, and one on the server."""
    utterances = [Utterance("a0", str(voices / "a0.wav"), "a"), Utterance("a1", f"{web[0]}/a1.wav", "a")]
    return write_data_dir(tmp_path / "far", utterances).path


def test_no_verb_reaches_the_network_unasked(far_dir, web, voices, model_folder, tmp_path, capsys):
    tmp = str(tmp_path / "out")
    for words in (
        ["check", str(far_dir)],
        ["check", str(far_dir), "--audio"],
        ["check", str(far_dir), "--fix", tmp],
        ["extract", str(model_folder), str(far_dir), tmp],
        ["pack", str(far_dir), tmp],
        ["enhance", str(far_dir), tmp, "--beamform", "mvdr"],
        ["simulate", str(far_dir), tmp],
        ["noises", str(far_dir), tmp],
        ["rirs", tmp, "--measured", str(far_dir)],
        [
            "train",
            "voxceleb/ecapa",
            "--data.train",
            f'["{far_dir}"]',
            "--validate.trials",
            "",
            "--run-dir",
            tmp,
        ],
    ):
        assert main(words) != 0, words
        output = "".join(capsys.readouterr())
        for part in (f"{far_dir / 'wav.scp'}:2:", "'a1'", "127.0.0.1", "--remote", "remote = true"):
            assert part in output, (words, output)
    assert web[1] == []


def test_a_url_in_a_command_or_below_segments_is_refused_as_well(web, tmp_path):
    (tmp_path / "segments").write_text("u r 0.0 0.5\n")
    for audio in (f"sox {web[0]}/a1.wav -t wav - |", f"{web[0]}/a1.wav#channel=0", f"{web[0]}/raw.ark:123"):
        (tmp_path / "wav.scp").write_text(f"r {audio}\n")
        with pytest.raises(DataDirError, match=r"wav\.scp:1: .*'r'.*127\.0\.0\.1"):
            DataDir.open(tmp_path)
        assert main(["check", str(tmp_path), "--audio"]) == 1
    assert web[1] == []


def test_asked_for_audio_of_a_data_dir_is_read(far_dir, web, model_folder, tiny_recipe, tmp_path):
    pytest.importorskip("aiohttp")
    assert main(["check", str(far_dir), "--audio", "--remote"]) == 0
    assert any("a1.wav" in request for request in web[1])
    out = str(tmp_path / "embeddings")
    assert main(["extract", str(model_folder), str(far_dir), out, "--remote", "--backend", "torch"]) == 0
    assert main(["pack", str(far_dir), str(tmp_path / "packed"), "--remote"]) == 0
    (far_dir / "spk2utt").unlink()
    (far_dir / "utt2spk").write_text("a0 a\na1 b\n")
    data = tiny_recipe["data"] | {"train": [str(far_dir)], "remote": True}
    recipe = tiny_recipe | {"data": data, "optim": {"batch_size": 2}}
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe))
    assert main(["train", str(tmp_path / "recipe.toml"), "--run-dir", str(tmp_path / "exp")]) == 0


def test_a_data_dir_may_be_listed_without_its_audio(far_dir, web, tmp_path):
    assert main(["subset", str(far_dir), str(tmp_path / "few"), "--per-speaker", "1"]) == 0
    assert main(["combine", str(tmp_path / "again"), str(far_dir)]) == 0
    assert web[1] == []


@pytest.mark.parametrize("remote", [[], ["--remote"]])
def test_a_password_in_a_url_is_refused_and_not_printed(remote, web, tmp_path, capsys):
    address = web[0].removeprefix("http://")
    for url in (
        f"http://user:secret@{address}/x.wav",
        "ftp://user:secret@127.0.0.1/x.wav",
        "s3://secret@b/x.wav",
    ):
        (tmp_path / "wav.scp").write_text(f"a {url}\n")
        assert main(["check", str(tmp_path), *remote]) == 1
        output = "".join(capsys.readouterr())
        assert "wav.scp:1:" in output and "'a'" in output and "secret" not in output, output
        with pytest.raises(UnreachableError, match="password") as raised:
            read_audio(url)
        assert "secret" not in str(raised.value)
    assert web[1] == []
    (tmp_path / "wav.scp").write_text(f"a http://{address}/a0.wav\n")
    assert main(["check", str(tmp_path), "--remote"]) == 0


def test_urls_on_the_command_line_are_those_of_python(web, voices, model_folder, capsys):
    pytest.importorskip("aiohttp")
    words = ["--model", str(model_folder), "--backend", "torch", "--vad", "off"]
    scores = []
    for start in (str(voices), f"file://{voices}", web[0]):
        assert main(["verify", f"{start}/a0.wav", f"{start}/a1.wav", *words]) in (0, 1)
        scores.append(capsys.readouterr().out)
    assert scores[0] == scores[1] == scores[2]
    assert main(["verify", f"{web[0]}/a0.wav", f"{web[0]}/none.wav", *words]) == 2
    assert "127.0.0.1" in capsys.readouterr().err


def test_a_bucket_that_was_packed_to_counts_as_asked_for_and_no_other(bucket, voices, tmp_path):
    near = write_data_dir(tmp_path / "near", [Utterance("a0", str(voices / "a0.wav"), "a")])
    assert main(["pack", str(near.path), str(tmp_path / "packed"), "--at", f"{bucket}/corpus"]) == 0
    assert main(["check", str(tmp_path / "packed"), "--audio"]) == 0
    scp = tmp_path / "packed" / "wav.scp"
    scp.write_text(scp.read_text().replace(f"{bucket}/", f"{bucket}x/"))
    with pytest.raises(DataDirError, match=r"wav\.scp:1: .*'a0'.*--remote"):
        DataDir.open(tmp_path / "packed")


def test_what_only_looks_like_a_url_is_a_path(tmp_path):
    for name in ("data/http://x/a.wav", "/data/ftp://u:p@h/a.wav"):
        assert not remote.is_remote(name)
    assert remote.without_scheme("file:///data/a%20b.wav") == "/data/a b.wav"
    with pytest.raises(UnreachableError, match="chain"):
        read_audio("simplecache::https://host/a.wav")
