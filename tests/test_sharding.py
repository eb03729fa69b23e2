"""Shards and their join: whatever N, as one run; and what is missing or foreign is named."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farvox.atomic import machine_tag
from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import BusyError, JobError, UsageError
from farvox.jobs import Job, cut
from farvox.sharding import current_shard, joined, one_shard
from farvox.writers import one_writer

OF_VERBS = {
    "extract": "extract model data out --device cpu --threads 1 --backend torch --quality",
    "simulate": "simulate data out --t60 0.2 0.3 --channels 0 --jobs 1",
    "enhance": "enhance far out --by source,point --beamform delay-and-sum --jobs 1 --allow-missing-channels",
    "pack": "pack data out --shard-size 0.1 --jobs 1",
    "check": "check out --audio --jobs 1",
    "prepare": "prepare voxceleb2 vox2 out --convert flac --jobs 1",
}


def tree(folder):
    """All files but those that only tell times of change."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".state")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def home(tmp_path, corpus, model_folder, monkeypatch):
    """A folder with what the commands of `OF_VERBS` read; every verb has some batches to do."""
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(model_folder)
    takes = list(DataDir.open(corpus / "train").utterances())
    many = [Utterance(f"{u.utt_id}_{n}", u.wav_path, u.speaker_id) for u in takes for n in range(3)]
    write_data_dir("data", sorted(many, key=lambda each: each.utt_id))
    pairs = [Utterance(f"{u.utt_id}-{n}", u.wav_path, u.speaker_id) for u in takes[:5] for n in (1, 2)]
    conditions = (f"{u.utt_id}\t{u.utt_id[:-2]}\t1\t{u.utt_id[-1]}\n" for u in pairs)
    write_data_dir("far", pairs, files={"utt2cond": "utt_id\tsource\tpoint\tchannel\n" + "".join(conditions)})
    for number, each in enumerate(takes):
        folder = Path("vox2/dev/aac", f"id{number % 4:05}", "video")
        folder.mkdir(parents=True, exist_ok=True)
        write_audio(folder / f"{number:05}.wav", read_audio(each.wav_path))
    return tmp_path


def begin_verb(verb):
    """An output as it is before the command."""
    for each in ("out", "out.shards"):
        shutil.rmtree(each, ignore_errors=True)
    if verb == "check":
        shutil.copytree("data", "out")


@pytest.mark.slow
@pytest.mark.parametrize("verb", OF_VERBS)
def test_shards_that_are_joined_are_one_run(verb, home, capsys):
    command = OF_VERBS[verb].split()
    begin_verb(verb)
    assert main(command) == 0
    whole, said = tree("out"), capsys.readouterr().out
    for count, order in ((2, (2, 1)), (7, range(1, 8))):  # of seven some have nothing to do
        begin_verb(verb)
        for number in order:
            assert main([*command, "--shard", f"{number}/{count}"]) == 0
        assert f"shard {number}/{count} of out is done" in capsys.readouterr().err
        assert main(["join", "out"]) == 0
        assert tree("out") == whole
        assert (
            capsys.readouterr().out.splitlines()[-1:] == said.splitlines()[-1:]
        )  # the rest tells the progress
        assert not [path for path in os.listdir() if path.startswith(("out.", ".lock", ".tmp"))]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 12), again=st.integers(1, 12))
def test_the_number_of_shards_changes_nothing(count, again, home):
    command = ["pack", "far", "out", "--shard-size", "0.02", "--jobs", "1"]
    if not Path("whole").exists():
        begin_verb("pack")
        assert main(command) == 0
        Path("out").rename("whole")
    begin_verb("pack")
    for number in [*range(1, count + 1), min(again, count)]:
        assert main([*command, f"--shard={number}/{count}"]) == 0
    assert main(["join", "out"]) == 0
    assert tree("out") == tree("whole")


SCRIPT = """
import sys, time
from pathlib import Path
from farvox.atomic import write_text
from farvox.jobs import Job, cut
from farvox.sharding import one_shard

def work(batch):
    out = Path(sys.argv[1])
    for number in batch:
        while len(list(out.glob("[0-9]*"))) >= int(sys.argv[3]):
            time.sleep(0.01)  # until it is ended
        write_text(out / f"{number}.txt", f"{number**3}")
    return str(list(batch)).encode()

with one_shard(sys.argv[1], sys.argv[2]):
    out = Path(sys.argv[1])
    Job(what="cubes", note=print, jobs=1, out=out).run_kept(work, cut(range(40), 3), out / "batches", ".txt")
"""


def start(out, part, most=100):
    """A process that does a shard of forty files; when ``most`` are there, it waits for its end."""
    command = [sys.executable, "-c", SCRIPT, str(out), part, str(most)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def cubes(out):
    Job(what="cubes", note=print, jobs=1, out=out).run_kept(None, cut(range(40), 3), out / "batches", ".txt")


def test_a_shard_that_is_killed_is_named_and_goes_on(tmp_path, wait_until):
    """Of four shards at the same time one is killed in the middle and started again."""
    out = tmp_path / "out"
    with start(out, "1/1") as process:
        process.communicate()
    whole = {path: each for path, each in tree(out).items()}
    shutil.rmtree(out)
    shutil.rmtree(tmp_path / "out.shards")
    with start(out, "3/4", 4) as killed:
        wait_until(lambda: len(list(out.glob("[0-9]*"))) >= 4)
        others = [start(out, f"{number}/4") for number in (1, 2, 4)]
        for process in others:
            with process:
                process.communicate()
            assert process.returncode == 0
        killed.kill()
    with (
        pytest.raises(JobError, match=r"1 of 4 shards cannot be joined \(begun, but not done: 3\)"),
        joined(out),
    ):
        raise AssertionError
    done = {path: path.stat().st_mtime_ns for path in out.glob("batches/*")}
    with start(out, "3/4") as process:
        process.communicate()
    with joined(out):
        cubes(out)  # finds all done, or it could not go on without a function
    assert tree(out) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_missing_and_foreign_shards_are_named(home, capsys):
    command = ["pack", "data", "out", "--shard-size", "0.1", "--jobs", "1"]
    assert main(["join", "out"]) == 1
    assert "has no shards to join" in capsys.readouterr().err
    for number in (1, 3):
        assert main([*command, "--shard", f"{number}/5"]) == 0
    capsys.readouterr()
    assert main(["join", "out"]) == 1
    said = capsys.readouterr().err
    assert "3 of 5 shards cannot be joined (never begun: 2,4,5)" in said
    assert (
        "start each, unless it is running: farvox pack data out --shard-size 0.1 --jobs 1 --shard I/5" in said
    )
    for other, difference in (
        ([*command, "--shard", "2/6"], "shards 5, now 6"),
        ([*command, "--codec", "flac", "--shard", "2/5"], 'codec "wav", now "flac"'),
        (["pack", "far", "out", "--shard", "2/5"], "not make of the same inputs"),
    ):
        assert main(other) == 1
        assert difference in capsys.readouterr().err
    assert main(command) == 1
    assert "is being made in shards; 'farvox join" in capsys.readouterr().err
    for number in (2, 4, 5):
        assert main([*command, "--shard", f"{number}/5"]) == 0
    lines = Path("data/wav.scp").read_text().splitlines()
    changed = f"{lines[0].split()[0]} {lines[-1].split()[1]}"
    Path("data/wav.scp").write_text("\n".join([changed, *lines[1:]]) + "\n")
    assert main(["join", "out"]) == 1
    assert "(other: utterances)" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/4", "5/4", "3", "1/0", "-1/4", "1/4/2", "a/b", "1/100000"])
def test_a_shard_that_is_none_is_refused(part, tmp_path):
    with pytest.raises(UsageError, match=r"it is I/N, .*99,999 at most"), one_shard(tmp_path / "out", part):
        raise AssertionError


def test_the_command_that_joins_can_be_copied_whatever_the_name(tmp_path):
    out, said = tmp_path / "emb ü'x", []
    with one_shard(out, "1/2", note=said.append):
        Job(what="cubes", note=print, out=out).own([], {})
        Job(what="cubes", note=print, out=out).end()
    with pytest.raises(JobError) as told:
        current_shard(out)
    for each in (*said, str(told.value)):
        assert shlex.split(each.split("'farvox join")[1].rpartition("' joins")[0]) == [str(out)]


def test_work_that_has_no_shards_says_so(home, capsys):
    for words in ("prepare folder vox2 out --shard 1/2", "check data --shard 1/2", "check data --engine ray"):
        assert main(words.split()) == 2
        assert "--shard and --engine are of --" in capsys.readouterr().err
    with pytest.raises(JobError, match="leave out --shard"), one_shard("out", "1/2"):
        pass


def test_a_shard_is_done_by_one_process_at_a_time_and_one_lost_with_its_machine_by_another(tmp_path):
    out, record = tmp_path / "out", tmp_path / "out.shards" / "00001-of-00002.json"
    lock = record.with_name(".lock-00001-of-00002.json")
    lock.parent.mkdir()
    other = f"{0 if machine_tag()[0] != '0' else 1}" * 12
    lock.write_text(f'{{"pid": 1, "machine": "{other}"}}')
    with pytest.raises(BusyError, match="another machine"), one_writer(record):
        raise AssertionError
    script = "import sys, farvox.writers as w; w.PATIENCE = 0\n" + SCRIPT
    (tmp_path / "second.py").write_text(script)
    with pytest.raises(JobError), one_shard(out, "1/2"):  # it has nothing to do
        second = [sys.executable, str(tmp_path / "second.py"), str(out), "1/2", "100"]
        done = subprocess.run(second, capture_output=True, text=True)
        assert "BusyError" in done.stderr and done.stderr.endswith("; wait until that ends\n")


def test_what_cannot_be_used_is_noted_by_its_shard_and_judged_by_the_join(home, capsys):
    Path("broken.wav").write_bytes(b"RIFF\0\0\0\0 no audio")
    lines = Path("data/wav.scp").read_text().splitlines()
    Path("data/wav.scp").write_text("\n".join([f"{lines[0].split()[0]} broken.wav", *lines[1:]]) + "\n")
    command = OF_VERBS["extract"].split()
    for number in (1, 2):
        assert main([*command, "--shard", f"{number}/2"]) == 0
    assert f"'{lines[0].split()[0]}' cannot be used: broken.wav" in capsys.readouterr().err
    assert main(["join", "out"]) == 1
    assert "1 of 72 utterances cannot be embedded" in capsys.readouterr().err
    assert main(["join", "out", "--skip-bad"]) == 0
    joined_files = tree("out")
    shutil.rmtree("out")
    assert main([*command, "--skip-bad"]) == 0
    assert tree("out") == joined_files
