import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from farvox.audio.files import read_audio, read_channels, write_audio
from farvox.augment.effects import RirSet
from farvox.corpora.registry import prepare
from farvox.datadir.conditions import read_conditions
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir
from farvox.errors import AudioError, CorpusError, DataDirError, JobError, UsageError
from farvox.farfield import NoisesOptions, RirsOptions, SimulateOptions
from farvox.farfield.noises import make_noises
from farvox.farfield.rirs import make_rirs, open_rirs
from farvox.farfield.simulate import simulate
from farvox.pipelines.enhance import EnhanceOptions, enhance

SMALL = RirsOptions(t60=(0.25, 0.35), array="circular4", rooms=2, per_room=2, jobs=1)


def simulated(source: Path, out: Path, **options: object) -> DataDir:
    """Copies by one process unless ``options`` say otherwise."""
    return simulate(source, out, SimulateOptions(**{"jobs": 1} | options))


def measured(out: Path, *sources: Path) -> DataDir:
    return make_rirs(out, RirsOptions(measured=sources))


@pytest.fixture(scope="module")
def close(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers with two utterances each, and beside them a folder of noise."""
    folder, rng = tmp_path_factory.mktemp("close"), np.random.default_rng(0)
    utterances = []
    for name in ("A-1", "A-2", "B-1", "B-2"):
        write_audio(folder / f"{name}.wav", 0.1 * rng.standard_normal(8000))
        utterances.append(Utterance(name, str(folder / f"{name}.wav"), name[0], 8000))
    write_audio(folder / "noise" / "hiss.wav", 0.1 * rng.standard_normal(5000))
    write_data_dir(folder / "data", utterances)
    return folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Responses of two rooms of two sources each, to four microphones."""
    out = tmp_path_factory.mktemp("bank") / "rirs"
    make_rirs(out, SMALL)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in (folder / "audio").rglob("*") if p.is_file()}


@pytest.mark.parametrize("verb", [simulate, make_noises, enhance])
def test_no_audio_is_written_among_the_recordings_that_it_is_made_of(tmp_path: Path, verb: Any) -> None:
    rng = np.random.default_rng(0)
    for name in ("ann/1", "bob/day 1/1"):
        write_audio(tmp_path / f"rec/{name}.wav", np.tile(0.1 * rng.standard_normal(8000), (2, 1)))
    prepare("folder", tmp_path / "rec", tmp_path / "data")
    options: Any = {
        simulate: SimulateOptions(jobs=1),
        make_noises: NoisesOptions(jobs=1),
        enhance: EnhanceOptions(beamform="delay-and-sum", jobs=1),
    }[verb]
    for out in ("rec/ann/far", "rec/far", "data/../rec/bob"):
        with pytest.raises(DataDirError, match=r"lies among the recordings of .*rec, and would be read"):
            verb(tmp_path / "data/all", tmp_path / out, options)
    assert len(list((tmp_path / "rec").rglob("*"))) == 5
    if verb is enhance:
        assert len(verb(tmp_path / "data/all", tmp_path / "far", options)) == 2


def test_copies_are_not_written_among_the_noise_that_they_are_made_with(close: Path) -> None:
    with pytest.raises(DataDirError, match=r"far: lies among the recordings of .*noise, and would be read"):
        simulated(close / "data", close / "noise/far", noise=(close / "noise",))


def test_a_bank_states_what_was_asked_and_what_was_measured(bank: Path) -> None:
    table = read_conditions(bank)
    assert table["utt_id"].to_list() == [f"room0000{room}_0{place}" for room in (0, 1) for place in (0, 1)]
    assert table.with_columns(pl.col("distance").cast(pl.Float64))["distance"].is_between(1, 5).all()
    asked, found = (table[name].cast(pl.Float64).to_numpy() for name in ("t60_asked", "t60"))
    assert np.abs(found / asked - 1).max() < 0.2
    for path in DataDir.open(bank).wav_paths:
        assert read_channels(path).shape[0] == 4


def test_measured_responses_in_other_sizes_last_longer_in_proportion(bank: Path, tmp_path: Path) -> None:
    options = RirsOptions(measured=(bank,), sizes=12, seed=3, jobs=1)
    made = make_rirs(tmp_path / "sized", options)
    table, whole = read_conditions(made.path), read_conditions(bank)
    assert table["utt_id"].to_list() == [f"{name}-{n:02d}" for name in whole["utt_id"] for n in range(12)]
    sizes = table["size"].cast(pl.Float64).to_numpy()
    assert 0.8 <= sizes.min() < 0.9 and 1.1 < sizes.max() <= 1.25 and len({*sizes}) > 20
    assert table["room"][0] == "room00000-00" == table["room"][12] and sizes[0] == sizes[12] != sizes[24]
    measured(tmp_path / "whole", bank)
    same = ["utt_id", "distance", "room", "t60"]
    assert read_conditions(tmp_path / "whole").select(same).equals(whole.select(same))
    own = {name: (float(t60), float(drr)) for name, t60, drr in whole.select("utt_id", "t60", "drr").rows()}
    t60, drr = zip(*(own[name] for name in table["source"]), strict=True)
    assert np.abs(table["t60"].cast(pl.Float64).to_numpy() / (t60 * sizes) - 1).max() < 0.03
    assert np.abs(table["drr"].cast(pl.Float64).to_numpy() - drr).max() < 2  # 2.5 ms are of another room
    for path, num_samples in zip(made.wav_paths, made.table["num_samples"], strict=True):
        rirs_CR = read_channels(path)
        assert rirs_CR.shape == (4, num_samples) and np.abs(rirs_CR).max() == pytest.approx(0.5)
    source = read_channels(DataDir.open(bank).wav_paths[0])
    lengths = made.table["num_samples"].to_numpy()[:12] / source.shape[1]
    assert np.abs(lengths - sizes[:12]).max() < 1e-3
    make_rirs(tmp_path / "again", replace(options, jobs=2))
    assert contents(tmp_path / "again") == contents(tmp_path / "sized")
    make_rirs(tmp_path / "other", replace(options, seed=4))
    assert contents(tmp_path / "other") != contents(tmp_path / "sized")
    with pytest.raises(JobError, match="sized: was begun with other settings"):
        make_rirs(tmp_path / "sized", replace(options, sizes=11))


def test_sizes_are_of_measured_responses_and_not_written_among_them(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sizes is of measured responses: name their folder with --measured"):
        RirsOptions(sizes=3)
    folder = tmp_path / "mine/hall a"
    shutil.copytree(bank / "audio", folder)
    options = RirsOptions(measured=(tmp_path / "mine",), sizes=2, jobs=1)
    with pytest.raises(DataDirError, match="lies among the recordings of"):
        make_rirs(tmp_path / "mine/hall a/sized", options)
    assert len(make_rirs(tmp_path / "sized", options)) == 8
    assert RirSet.open((tmp_path / "sized",), within={"t60": (0.1, 0.6)})
    write_audio(folder / "silent.wav", np.zeros(4000))
    with pytest.raises(AudioError, match=r"silent\.wav: not an impulse response \(all zeros\)"):
        make_rirs(tmp_path / "more", options)


@pytest.mark.skipif(os.name != "posix", reason="the system limits no file")
@pytest.mark.parametrize("verb", ["simulate", "noises"])
def test_audio_that_the_system_refuses_to_write_is_a_line_with_its_path(verb, tmp_path: Path) -> None:
    rng, loud = np.random.default_rng(0), np.repeat([0.001, 0.1] * 3, 16000)
    write_audio(tmp_path / "in.wav", loud * rng.standard_normal(len(loud)))
    write_data_dir(tmp_path / "data", [Utterance("A-1", str(tmp_path / "in.wav"), "A", len(loud))])
    code = (
        "import resource, sys; from farvox.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000)); sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "out"
    words = [sys.executable, "-c", code, verb, str(tmp_path / "data"), str(out), "--jobs", "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"farvox {verb}: {out}/audio/A/A-1") and "cannot be written" in last


def test_copies_are_named_like_himia_and_keep_speaker_and_length(
    close: Path, bank: Path, tmp_path: Path
) -> None:
    made = simulated(close / "data", tmp_path / "far", rirs=[bank], copies=2)
    assert len(made) == 4 * 2 * 4
    assert made.utt_ids[:4].to_list() == ["A-1_1_00", "A-1_1_01", "A-1_1_02", "A-1_1_03"]
    assert made.speaker_ids.unique().sort().to_list() == ["A", "B"]
    assert set(made.num_samples) == {8000}
    assert set(read_conditions(made.path)["source"]) == {"A-1", "A-2", "B-1", "B-2"}


def test_noise_comes_from_another_place_in_the_room_at_the_ratio_that_is_written(
    close: Path, bank: Path, tmp_path: Path
) -> None:
    options = {"rirs": [bank]}
    simulated(close / "data", tmp_path / "far", noise=[close / "noise"], snr=(10, 10), **options)
    table = read_conditions(tmp_path / "far")
    assert (table["rir"] != table["noise_rir"]).all()
    assert (table["rir"].str.slice(0, 9) == table["noise_rir"].str.slice(0, 9)).all()
    # the ratio is set over the array, so that each microphone has its own around it
    assert np.abs(table["snr"].cast(pl.Float64).to_numpy() - 10).max() < 4
    assert set(table["noise"]) == {"hiss"}


def test_the_level_is_one_for_all_channels_of_an_array(close: Path, bank: Path, tmp_path: Path) -> None:
    made = simulated(close / "data", tmp_path / "far", rirs=[bank])
    wav_CT = np.stack([read_audio(path) for path in made.wav_paths[:4]])
    assert 10 * np.log10(np.mean(wav_CT**2)) == pytest.approx(-26, abs=0.1)
    assert np.ptp(np.mean(wav_CT**2, axis=1)) > 0


@pytest.mark.slow
def test_copies_do_not_depend_on_the_number_of_processes(
    close: Path, bank: Path, tmp_path: Path, other_processes: None
) -> None:
    for jobs in (1, 2):
        simulated(
            close / "data", tmp_path / str(jobs), rirs=[bank], noise=[close / "noise"],
            copies=5, jobs=jobs,
        )  # fmt: skip
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert (tmp_path / "1" / "utt2cond").read_text() == (tmp_path / "2" / "utt2cond").read_text()


def test_an_interrupted_run_is_gone_on_with(close: Path, bank: Path, tmp_path: Path) -> None:
    options = {"rirs": [bank], "copies": 5}
    simulated(close / "data", tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "wav.scp").unlink()
    _, last = sorted((tmp_path / "cut" / "batches").glob("*.tsv"))
    last.unlink()
    kept = next(iter(sorted((tmp_path / "cut" / "audio" / "A").iterdir())))
    before = kept.stat().st_mtime_ns
    lost = next(iter(sorted((tmp_path / "cut" / "audio" / "B").iterdir(), reverse=True)))
    lost.unlink()
    simulated(close / "data", tmp_path / "cut", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")
    assert kept.stat().st_mtime_ns == before


def test_a_folder_begun_with_other_settings_is_refused(close: Path, bank: Path, tmp_path: Path) -> None:
    simulated(close / "data", tmp_path / "far", rirs=[bank])
    with pytest.raises(JobError, match=r"far: was begun with other settings \(seed 0, now 1\)"):
        simulated(close / "data", tmp_path / "far", rirs=[bank], seed=1)


def test_without_a_bank_every_copy_has_a_room_of_its_own(close: Path, tmp_path: Path) -> None:
    rooms = {"t60": (0.25, 0.35), "array": "linear4", "channels": (0, 3)}
    made = simulated(close / "data", tmp_path / "far", **rooms, noise=[close / "noise"], jobs=1)
    table = read_conditions(made.path)
    assert set(table["channel"]) == {"00", "03"}
    first = table.filter(pl.col("channel") == "00")
    assert len(first) == first.select("t60", "drr", "distance").unique().height == 4


def test_measured_responses_become_a_bank(bank: Path, close: Path, tmp_path: Path) -> None:
    measured(tmp_path / "measured", bank / "audio")
    tables = [read_conditions(path).select("utt_id", "t60", "drr") for path in (bank, tmp_path / "measured")]
    assert tables[0].equals(tables[1])
    made = simulated(
        close / "data", tmp_path / "far", rirs=[bank / "audio"], noise=[close / "noise"],
        channels=(2,),
    )  # fmt: skip
    assert set(read_conditions(made.path)["array"]) == {"measured"}
    assert len(made) == 4


def test_two_banks_whose_rooms_are_called_alike_stay_apart(close: Path, bank: Path, tmp_path: Path) -> None:
    make_rirs(tmp_path / "other", replace(SMALL, seed=1))
    rirs = open_rirs([bank, tmp_path / "other"])
    assert len({rir.name for rir in rirs}) == 8 and len({rir.path for rir in rirs}) == 8
    assert {rir.conditions["room"] for rir in rirs} == {
        f"{name}-room0000{room}" for name in ("rirs", "other") for room in (0, 1)
    }
    options = {"rirs": [bank, tmp_path / "other"], "noise": [close / "noise"]}
    table = read_conditions(simulated(close / "data", tmp_path / "far", copies=4, **options).path)
    assert table["rir"].str.starts_with("other-").any() and table["rir"].str.starts_with("rirs-").any()
    room, noise_room = (table[name].str.replace(r"_\d+$", "") for name in ("rir", "noise_rir"))
    assert (room == noise_room).all()
    measured(tmp_path / "both", bank, tmp_path / "other")
    assert len(DataDir.open(tmp_path / "both")) == 8


def test_what_cannot_be_copied_is_named(close: Path, bank: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="array = 'round'; it must be one of single"):
        SimulateOptions(array="round")
    with pytest.raises(UsageError, match="linear4 has no channel 7"):
        SimulateOptions(array="linear4", channels=(7,))
    with pytest.raises(AudioError, match="has no channel 7"):
        simulated(close / "data", tmp_path / "b", rirs=[bank], channels=(7,))
    for snr in ((20, 5), (np.nan, np.nan), (0, np.inf)):
        with pytest.raises(UsageError, match=r"snr goes from the least|must be a finite number"):
            SimulateOptions(snr=snr)
    write_audio(tmp_path / "half" / "dead.wav", np.stack([np.eye(1, 800)[0], np.zeros(800)]))
    with pytest.raises(AudioError, match="response 'dead': channel 1 is silent"):
        simulated(close / "data", tmp_path / "d", rirs=[tmp_path / "half"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataDirError, match=r"neither a wav\.scp nor audio files"):
        open_rirs([tmp_path / "empty"])
    for folder in ("one", "two"):
        write_audio(tmp_path / "twice" / folder / "r.wav", np.eye(1, 100)[0])
    assert [rir.name for rir in open_rirs([tmp_path / "twice"])] == ["one-r.wav", "two-r.wav"]
    write_audio(tmp_path / "zeros.wav", np.zeros(4000))
    write_data_dir(tmp_path / "silent", [Utterance("S-1", str(tmp_path / "zeros.wav"), "S", 4000)])
    with pytest.raises(AudioError, match=r"utterance 'S-1': .*it is silent"):
        simulated(tmp_path / "silent", tmp_path / "c", rirs=[bank])


def test_measured_responses_are_named_by_their_files(bank: Path, tmp_path: Path) -> None:
    response = next((bank / "audio").glob("*.wav"))
    for place in ("hall/one two.wav", "hall/one_two.wav", "room/one_two.wav"):
        (tmp_path / "files" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(response, tmp_path / "files" / place)
    with pytest.raises(CorpusError, match=r"/one.two\.wav and .*/one.two\.wav: two responses have one name"):
        measured(tmp_path / "out", tmp_path / "files")
    (tmp_path / "files" / "hall" / "one_two.wav").unlink()
    names = ["hall-one_two.wav", "room-one_two.wav"]
    assert measured(tmp_path / "out", tmp_path / "files").utt_ids.to_list() == names
    (tmp_path / "files" / "room" / "one_two.wav").unlink()
    assert measured(tmp_path / "alone", tmp_path / "files").utt_ids.to_list() == ["one_two"]


def test_options_of_simulated_rooms_are_refused_where_there_are_others(bank: Path) -> None:
    for name, value in (
        ("array", "linear4"),
        ("talker", "turned"),
        ("t60", (0.3, 0.4)),
        ("distance", (1, 2)),
    ):
        for given in (partial(RirsOptions, measured=(bank,)), partial(SimulateOptions, rirs=(bank,))):
            with pytest.raises(UsageError, match=f"--{name} is of rooms that are simulated, and --"):
                given(**{name: value})
    with pytest.raises(
        UsageError, match="--per-room is of rooms that are simulated, and --measured has others"
    ):
        RirsOptions(measured=(bank,), per_room=3)
    with pytest.raises(UsageError, match="--channels is of rooms"):
        RirsOptions(measured=(bank,), channels=(1,))
    with pytest.raises(UsageError, match="--snr is of noise, and none is given"):
        SimulateOptions(snr=(0.0, 5.0))
    SimulateOptions(snr=(0.0, 5.0), noise=(bank,))


def test_a_set_that_was_begun_in_sizes_is_not_gone_on_with_without(bank: Path, tmp_path: Path) -> None:
    make_rirs(tmp_path / "out", RirsOptions(measured=(bank,), sizes=2, jobs=1))
    with pytest.raises(JobError, match=r"out: was begun with other settings \(sizes 2, now 0\)"):
        measured(tmp_path / "out", bank)


def test_the_noise_beside_a_response_in_another_size_comes_from_a_room_of_that_size(
    bank: Path, close: Path, tmp_path: Path
) -> None:
    make_rirs(tmp_path / "sized", RirsOptions(measured=(bank,), sizes=3, jobs=1))
    sizes = dict(read_conditions(tmp_path / "sized").select("utt_id", "size").iter_rows())
    source = (bank / "audio").glob("*.wav")
    for number, path in enumerate(source):
        (tmp_path / "plain").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / f"plain/{number}.wav")
    make_rirs(tmp_path / "alone", RirsOptions(measured=(tmp_path / "plain",), sizes=3, jobs=1))
    for rirs, has_partners in ((tmp_path / "sized", True), (tmp_path / "alone", False)):
        out = tmp_path / f"far-{rirs.name}"
        simulated(close / "data", out, rirs=(rirs,), noise=(close / "noise",), copies=4)
        pairs = {*read_conditions(out).select("rir", "noise_rir").iter_rows()}
        assert all((rir[:-2] != noise[:-2]) for rir, noise in pairs)
        if has_partners:
            assert all(rir[:9] == noise[:9] and sizes[rir] == sizes[noise] for rir, noise in pairs)
        else:
            assert {noise for _, noise in pairs} == {""}


def test_speakers_that_were_corrected_meanwhile_are_those_of_a_run_gone_on_with(
    close: Path, bank: Path, tmp_path: Path
) -> None:
    spoken = [
        Utterance(each.utt_id, each.wav_path, "X") for each in DataDir.open(close / "data").utterances()
    ]
    for utterances in (list(DataDir.open(close / "data").utterances()), spoken):
        write_data_dir(tmp_path / "data", utterances)
        made = simulated(tmp_path / "data", tmp_path / "far", rirs=[bank])
    assert set(made.speaker_ids) == {"X"}


def test_copies_lie_in_out_whatever_the_ids(close: Path, bank: Path, tmp_path: Path) -> None:
    wav = str(close / "A-1.wav")
    ids = ["../x", "/tmp/x", "a/b", "a%2Fb"]
    write_data_dir(tmp_path / "data", [Utterance(each, wav, f"../{each}", 8000) for each in ids])
    made = simulated(tmp_path / "data", tmp_path / "out" / "far", rirs=[bank])
    paths = {Path(path).resolve() for path in made.wav_paths}
    assert len(paths) == len(made) == 4 * 4
    assert paths == {path.resolve() for path in (tmp_path / "out" / "far" / "audio").glob("*/*.flac")}


def test_one_bad_file_loses_no_copies(close: Path, bank: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    good = list(DataDir.open(close / "data").utterances())
    bad = [Utterance(f"{name}-bad", str(tmp_path / "bad.wav"), name, 8000) for name in "AB"]
    write_data_dir(tmp_path / "data", [*good, *bad])
    with pytest.raises(AudioError, match="2 of 6 utterances cannot be used"):
        simulated(tmp_path / "data", tmp_path / "far", rirs=[bank])
    made = simulated(tmp_path / "data", tmp_path / "far", rirs=[bank], skip_bad=True)
    listed = (tmp_path / "far" / "rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["utt_id", "A-bad", "B-bad"]
    assert {name.rsplit("_", 2)[0] for name in made.utt_ids} == {each.utt_id for each in good}
    shutil.copy(good[0].wav_path, tmp_path / "bad.wav")
    assert len(simulated(tmp_path / "data", tmp_path / "far", rirs=[bank])) == 6 * 4
    assert not (tmp_path / "far" / "rejected.tsv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["A-2.wav", "noise/hiss.wav", "a copy", "a response"])
def test_copies_of_what_was_replaced_and_copies_that_are_gone_are_made_again(
    close: Path, bank: Path, tmp_path: Path, changed: str
) -> None:
    folder, rng = tmp_path / "close", np.random.default_rng(1)
    shutil.copytree(close, folder)
    shutil.copytree(bank, tmp_path / "bank")
    utterances = DataDir.open(close / "data").utterances()
    moved = [replace(each, wav_path=str(folder / Path(each.wav_path).name)) for each in utterances]
    responses = DataDir.open(bank).utterances()
    here = [
        replace(each, wav_path=each.wav_path.replace(str(bank), str(tmp_path / "bank"))) for each in responses
    ]
    write_data_dir(folder / "data", moved)
    write_data_dir(tmp_path / "bank", here, files={"utt2cond": (bank / "utt2cond").read_text()})
    options = {
        "rirs": [tmp_path / "bank"],
        "noise": [folder / "noise"],
        "copies": 8,
    }  # a batch of two utterances
    notes: list[str] = []
    far = tmp_path / "far"
    made = simulated(folder / "data", far, **options)
    before = {path: Path(path).stat().st_mtime_ns for path in made.wav_paths}
    if changed == "a copy":
        Path(made.wav_paths[-1]).unlink()
    elif changed == "a response":
        path = here[0].wav_path
        write_audio(path, 0.5 * read_channels(path)[:, ::-1])
    else:
        write_audio(folder / changed, 0.1 * rng.standard_normal(8000))
    simulate(folder / "data", far, SimulateOptions(jobs=1, **options), note=notes.append)
    count = 16 if changed in ("A-2.wav", "a copy") else 32
    assert f"{count} of 32 are done again" in notes[0]
    simulated(folder / "data", tmp_path / "anew", **options)
    assert contents(far) == contents(tmp_path / "anew")
    assert (far / "utt2cond").read_bytes() == (tmp_path / "anew" / "utt2cond").read_bytes()
    kept = [path for path, time in before.items() if Path(path).stat().st_mtime_ns == time]
    assert len(kept) == 4 * (32 - count)
    notes.clear()
    simulate(folder / "data", far, SimulateOptions(jobs=1, **options), note=notes.append)
    assert not any("again" in line for line in notes)


def test_copies_of_an_earlier_farvox_are_kept_and_missing_ones_made(
    close: Path, bank: Path, tmp_path: Path
) -> None:
    simulated(close / "data", tmp_path / "far", rirs=[bank])
    before = contents(tmp_path / "far")
    for path in (tmp_path / "far" / "batches").glob("*.state"):
        path.unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "far" / "audio").rglob("*.flac")}
    shutil.copytree(tmp_path / "far", tmp_path / "lacking")
    next((tmp_path / "lacking" / "audio").rglob("*.flac")).unlink()
    for out, line in (("far", "4 of 4 were done by an earlier farvox"), ("lacking", "4 of 4 are done again")):
        for number in range(2):
            notes: list[str] = []
            simulate(close / "data", tmp_path / out, SimulateOptions(jobs=1, rirs=[bank]), note=notes.append)
            assert any(line in note for note in notes) == (number == 0)
        assert contents(tmp_path / out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_speech_in_the_place_of_responses_is_refused_with_the_option_it_belongs_to(
    close: Path, bank: Path, tmp_path: Path
) -> None:
    with pytest.raises(AudioError, match=r"4 of 4 files are no room .*speech as --noise$"):
        simulated(close / "data", tmp_path / "a", rirs=[close / "data"])
    with pytest.raises(AudioError, match=r"speech as noise of simulate$"):
        measured(tmp_path / "b", close / "data")
    with pytest.raises(AudioError, match=r"speech as noise, music or speech of \[augment\]$"):
        RirSet.open([close / "data"])
    assert len(simulated(close / "data", tmp_path / "c", rirs=[bank], noise=[close / "data"])) == 16
