import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from farvox.atomic import url_of
from farvox.audio.remote import list_files, put_file, remove_file
from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, write_data_dir
from farvox.datadir.stores import fetched, put_up, staged
from farvox.errors import DataDirError, FarvoxError, UnreachableError


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARVOX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(bucket, corpus, tmp_path):
    """URL of the data dir ``dev``; its audio, beside it, is named by relative paths, URLs and a path."""
    source = DataDir.open(corpus / "dev")
    for path in source.wav_paths:
        put_file(path, f"{bucket}/dev/wav/{Path(path).name}")
    ways = ["wav/{}", f"{bucket}/dev/wav/{{}}", f"{corpus}/dev/wav/{{}}", "../dev/./wav/{}"]
    folder = write_data_dir(tmp_path / "far", source.table).path
    lines = [f"{utt_id} {ways[n % 4].format(f'{utt_id}.wav')}\n" for n, utt_id in enumerate(source.utt_ids)]
    (folder / "wav.scp").write_text("".join(lines))
    for each in folder.iterdir():
        put_file(str(each), f"{bucket}/dev/{each.name}")
    return f"{bucket}/dev"


def files_of(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def some(bucket, *, count=6, **more):
    """Embeddings in the store, written as `extract` does, and in memory."""
    rng = np.random.default_rng(count)
    ids = [f"u{n}" for n in range(count)]
    made = EmbeddingSet(ids, rng.standard_normal((count, 4)).astype(np.float32), {"data_dir": "x"})
    folder = staged(f"{bucket}/emb")
    made.save(folder, **more)
    put_up(folder)
    return made


def test_an_extraction_from_and_to_a_store_is_the_local_one(
    data, bucket, model_folder, corpus, tmp_path, capsys
):
    assert main(["extract", str(model_folder), data, f"{bucket}/emb"]) == 0
    assert f"9 embeddings: {bucket}/emb" in capsys.readouterr().err
    assert list((tmp_path / "cache/stores/write").iterdir()) == []
    assert main(["extract", str(model_folder), data, "here"]) == 0
    assert files_of(fetched(f"{bucket}/emb")) == files_of(tmp_path / "here")
    assert not any(name.startswith(".") for name in list_files(f"{bucket}/emb"))
    near = EmbeddingSet.load("here")
    assert near.meta["data_dir"] == data and near.speaker_ids.to_list() == [
        f"d{n}" for n in range(3) for _ in "012"
    ]
    assert main(["extract", str(model_folder), str(corpus / "dev"), "there"]) == 0
    np.testing.assert_array_equal(near.embeddings, EmbeddingSet.load("there").embeddings)
    trials = str(corpus / "dev/trials")
    for name in (f"{bucket}/emb", "here"):
        assert main(["score", trials, name, "--out", f"{name[:2]}.scores"]) == 0
    assert Path("s3.scores").read_text() == Path("he.scores").read_text()
    assert main(["cluster", f"{bucket}/emb", "clusters", "--clusters", "3", "--min-size", "1"]) == 0
    assert main(["extract", str(model_folder), data, f"{bucket}/emb"]) == 0  # again: replaced
    assert main(["extract", str(model_folder), str(corpus / "more"), f"{bucket}/emb"]) == 1
    assert f"{bucket}/emb: holds embeddings of {data}, not of" in capsys.readouterr().err


@pytest.mark.slow
def test_an_extraction_on_ray_is_the_local_one(data, bucket, model_folder, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs ray, of the extra ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")  # not one that runs here by chance
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main(["extract", str(model_folder), data, f"{bucket}/emb", "--engine", "ray"]) == 0
    assert main(["extract", str(model_folder), data, "here"]) == 0
    assert files_of(fetched(f"{bucket}/emb")) == files_of(tmp_path / "here")


def test_a_killed_upload_is_no_set_and_goes_on(data, bucket, model_folder, way_to_store, tmp_path):
    reached, over = threading.Event(), threading.Event()

    def hold(request):
        if request.split()[0] == "PUT" and "emb/utt_ids.txt" in request:
            reached.set()
            over.wait()
            return "hang up"
        return None

    free, way_to_store.fault_of = way_to_store.fault_of, hold
    command = ["extract", str(model_folder), data, f"{bucket}/emb"]
    process = subprocess.Popen([sys.executable, "-m", "farvox", *command], env=dict(os.environ))
    try:
        while not reached.wait(0.1):
            assert process.poll() is None, "it ended before"
    finally:
        process.kill()
        process.wait()
        over.set()
    assert list(tmp_path.glob("cache/stores/write/*.unfinished/000000000.f32"))
    assert list_files(f"{bucket}/emb").keys() == {".unfinished", "embeddings.npy", "utt2spk"}
    with pytest.raises(
        DataDirError, match=f"{bucket}/emb: .*no wav.scp and no meta.json.*these files come last"
    ):
        fetched(f"{bucket}/emb")
    way_to_store.fault_of = free
    assert main(command) == 0
    written = [line.split("?")[0].rpartition("/")[2] for line in way_to_store.requests if line[:3] == "PUT"]
    assert written == [".unfinished", "utt_ids.txt", "meta.json"]
    assert main(["extract", str(model_folder), data, "here"]) == 0
    assert files_of(fetched(f"{bucket}/emb")) == files_of(tmp_path / "here")


def test_a_set_is_never_a_mixture_of_two(bucket, way_to_store):
    some(bucket, count=1500, part_rows=1000)
    assert {"part-00000.npy", "part-00001.npy"} < list_files(f"{bucket}/emb").keys()
    way_to_store.requests.clear()
    new = some(bucket)
    changes = [line.split()[0] + line.rpartition("/emb")[2] for line in way_to_store.requests]
    changes = [line for line in changes if line.startswith(("PUT", "DELETE")) and ".unfinished" not in line]
    assert changes[0] == "DELETE/meta.json" and changes[-1] == "PUT/meta.json"
    assert list_files(f"{bucket}/emb").keys() == {"embeddings.npy", "utt_ids.txt", "meta.json"}
    assert EmbeddingSet.load(fetched(f"{bucket}/emb")).utt_ids == new.utt_ids


def test_what_changes_while_it_is_fetched_is_fetched_again(bucket, way_to_store):
    some(bucket)
    begun, most = [], 1

    def replace(request):
        if request.startswith("GET") and request.endswith("/emb/meta.json") and len(begun) < most:
            begun.append(request)
            Path("newer").write_text(f'{{"epoch": {len(begun)}}}')
            put_file("newer", f"{bucket}/emb/meta.json")

    way_to_store.fault_of = replace
    assert EmbeddingSet.load(fetched(f"{bucket}/emb")).meta == {"epoch": 1}
    way_to_store.fault_of = lambda request: begun.append(request)
    begun.clear()
    assert EmbeddingSet.load(fetched(f"{bucket}/emb")).meta == {"epoch": 1}
    assert len(begun) == 1  # nothing but the list: it is in the cache
    put_file("newer", f"{bucket}/emb/utt2spk")
    way_to_store.fault_of, most = replace, 1000
    with pytest.raises(DataDirError, match="/emb: changes while it is read; start again when it is written"):
        fetched(f"{bucket}/emb")
    most = 0
    remove_file(f"{bucket}/emb/utt2spk")
    assert len(EmbeddingSet.load(fetched(f"{bucket}/emb"))) == 6


def test_a_busy_store_is_asked_again(bucket, way_to_store):
    way_to_store.faults += ["busy", "hang up"]
    some(bucket)
    way_to_store.faults += ["busy", "hang up"]
    assert len(EmbeddingSet.load(fetched(f"{bucket}/emb"))) == 6


def test_only_the_bucket_that_was_named_is_read(bucket, corpus, tmp_path, capsys):
    (tmp_path / "wav.scp").write_text("a s3://another-bucket/a.wav\n")
    put_file("wav.scp", f"{bucket}/data/wav.scp")
    assert main(["subset", f"{bucket}/data", "two", "--per-speaker", "1"]) == 1
    with pytest.raises(DataDirError, match=r"another-bucket.*nobody asked to read from.*--remote"):
        DataDir.open(fetched(f"{bucket}/data"))
    put_file("wav.scp", f"{bucket}/data/utt2spk")
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    put_file("wav.scp", f"{bucket}/data/wav.scp")
    assert main(["subset", f"{bucket}/data", "two", "--per-speaker", "1"]) == 0
    assert Path("two/wav.scp").read_text() == f"a {bucket}/data/a.wav\n"


def test_foreign_and_missing_places_are_refused(bucket, data, corpus, model_folder, monkeypatch, capsys):
    with pytest.raises(FarvoxError, match=r"/dev: holds other things .*it is not replaced"):
        staged(data)
    with pytest.raises(FarvoxError, match=r"no-such-bucket/emb \(.*no such file, or no such bucket"):
        staged("s3://no-such-bucket/emb")
    for url in (f"{bucket}/nothing", "s3://no-such-bucket/a"):
        with pytest.raises(DataDirError, match=f"{url}: no data dir and no embeddings"):
            fetched(url)
    with pytest.raises(DataDirError, match="https://host/a: is in no object store"):
        fetched("https://host/a")
    some(bucket)
    assert main(["subset", f"{bucket}/emb", "part", "--per-speaker", "1"]) == 1
    told = f"farvox subset: {bucket}/emb: has no wav.scp; it holds embeddings: name the data dir\n"
    assert capsys.readouterr().err.endswith(told)
    with pytest.raises(UnreachableError, match=r"s3://\*\*\*@host: a password"):
        fetched("s3://me:secret@host/a")
    assert main(["extract", str(model_folder), data, f"{bucket}/emb2", "--shard", "1/2"]) == 2
    assert "give one as OUT, or leave out --shard" in capsys.readouterr().err
    assert main(["extract", str(model_folder), data, "emb", "--shard", "1/1"]) == 0
    assert main(["join", "emb"]) == 0


@pytest.mark.parametrize(
    "command",
    [
        "check s3://b/data", "simulate data s3://b/out", "enhance data s3://b/out --beamform mvdr",
        "pack data s3://b/out", "combine s3://b/out data", "subset data s3://b/out --speakers 1",
        "score trials emb --out s3://b/scores", "score trials emb --out scores --norm as-norm --cohort s3://b/emb",
        "cluster emb s3://b/out", "sample s3://b/out", "join s3://b/out", "trials data s3://b/out",
        "run demo --run-dir s3://b/run", "train quickstart --run-dir s3://b/run",
        """train quickstart --data.train ["s3://b/data"] --run-dir run""",
    ],
)  # fmt: skip
def test_a_url_that_is_of_no_use_is_refused_and_makes_no_folder(command, tmp_path, capsys):
    assert main(command.split()) in (1, 2)
    said = capsys.readouterr().err
    assert "s3://b/" in said and ("takes no URL there; copy it" in said or "name that of a copy" in said)
    assert not Path("s3:").exists()


def test_paths_of_this_machine_are_no_urls():
    assert [url_of(path) for path in ("a:b", "c:/d", "x/s3://b", "s3://b/c/", Path("s3://b/c"))] == [
        "", "", "", "s3://b/c", "s3://b/c",
    ]  # fmt: skip


@pytest.fixture
def store_falls_silent(data, way_to_store):
    """A function that lets the store answer nothing from its second audio file on; gives its requests."""
    is_over, asked = threading.Event(), []

    def fault_of(request):
        if asked or (".wav" in request and "GET" in request):
            asked.append(request)
        if len(asked) < 2:
            return None
        is_over.wait()
        return "hang up"

    def fall_silent():
        way_to_store.fault_of = fault_of
        return asked

    yield fall_silent
    is_over.set()


FARVOX = "import sys; from farvox.audio import remote; from farvox.cli.main import main; {}; sys.exit(main())"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("verb", ["extract", "pack"])
def test_a_signal_ends_a_verb_that_a_store_does_not_answer(
    verb, number, data, bucket, model_folder, store_falls_silent, in_session, running, wait_until, tmp_path
):
    asked = store_falls_silent()
    words = {"extract": [model_folder, data, "out", "--threads", "1"], "pack": [data, "out", "--jobs", "2"]}
    command = [sys.executable, "-c", FARVOX.format("import farvox.jobs; farvox.jobs.ALONE = 0")]
    process = in_session([*command, verb, *words[verb]], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(asked) > 1 or process.poll() is not None)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)  # no request is over before 30 s
    finally:
        process.kill()
        process.communicate()
    what = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert (process.returncode, said.splitlines()[-1]) == (128 + number, f"farvox {verb}: {what}"), said
    assert "Traceback" not in said
    wait_until(lambda: not running(process.pid))
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_told_of_and_the_same_command_goes_on(
    data, bucket, model_folder, store_falls_silent, way_to_store
):
    before, asked = way_to_store.fault_of, store_falls_silent()
    waits = "remote.TRIES = 3; remote._S3_CONFIG['read_timeout'] = 2; remote.SECONDS_BETWEEN_LINES = 1e9"
    command = [sys.executable, "-c", FARVOX.format(waits), "extract", model_folder, data, "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    where = rf"{bucket}/dev/\S+ \(at http://127\S+\): no answer"
    assert done.returncode == 1 and len(asked) > 1
    assert len(re.findall(rf"^{where}: .*; tried again, 2 times at most$", done.stderr, re.MULTILINE)) == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"farvox extract: {where} after \d tries: .*: what is done is kept, and it goes on", last
    )
    way_to_store.fault_of = before
    assert main(["extract", str(model_folder), data, "out"]) == 0
