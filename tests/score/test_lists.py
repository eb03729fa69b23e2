"""Trial lists that are drawn, and those that are renamed."""

import time
from itertools import combinations, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.score.lists import (
    Pairs,
    rename_sides,
    speakers_from_dirs,
    speakers_from_ids,
    write_all_pairs,
    write_drawn_pairs,
    write_table,
)
from farvox.score.trials import read_trials

Lines = list[tuple[str, str, str]]


def pairs_of(speakers: str, **patterns: str) -> Pairs:
    """Utterances `A-0`, `B-1`, ...: one for each letter, the speaker."""
    ids = [f"{speaker}-{row}" for row, speaker in enumerate(speakers)]
    return Pairs.of(pl.Series(ids, dtype=pl.String), pl.Series([*speakers], dtype=pl.String), **patterns)


def read(path: Path) -> Lines:
    return [(label, a, b) for label, a, b in (line.split(" ") for line in path.read_text().splitlines())]


def labelled(pairs: list[tuple[str, str]]) -> Lines:
    return [(str(int(a[0] == b[0])), a, b) for a, b in pairs]


def has_both_kinds(speakers: str) -> bool:
    return len(set(speakers)) > 1 and len(set(speakers)) < len(speakers)


SPEAKERS = st.text("ABC", min_size=2, max_size=12).filter(has_both_kinds)


@settings(deadline=None)
@given(speakers=SPEAKERS)
def test_every_pair_of_utterances_is_a_trial_once(
    tmp_path_factory: pytest.TempPathFactory, speakers: str
) -> None:
    path, pairs = tmp_path_factory.mktemp("t") / "trials", pairs_of(speakers)
    counts = write_all_pairs(path, pairs)
    expected = labelled(list(combinations(pairs.utt_ids.to_list(), 2)))
    assert read(path) == expected
    assert counts == pairs.count() == (sum(t[0] == "1" for t in expected), sum(t[0] == "0" for t in expected))


@settings(deadline=None)
@given(speakers=SPEAKERS)
def test_patterns_pair_enrolment_with_test_and_nothing_with_itself(
    tmp_path_factory: pytest.TempPathFactory, speakers: str
) -> None:
    path = tmp_path_factory.mktemp("t") / "trials"
    try:
        pairs = pairs_of(speakers, enrol="[AB]-*", test="*[02468]")
        counts = write_all_pairs(path, pairs)
    except TrialError:
        assert not path.exists()
        return
    ids = pairs.utt_ids.to_list()
    enrol, test = [i for i in ids if i[0] in "AB"], [i for i in ids if i[-1] in "02468"]
    assert read(path) == labelled([(a, b) for a, b in product(enrol, test) if a != b])
    assert counts == pairs.count()


@settings(deadline=None)
@given(speakers=SPEAKERS, seed=st.integers(0, 9), share=st.floats(0.01, 1), ordered=st.booleans())
def test_drawn_trials_are_all_targets_and_some_different_nontargets(
    tmp_path_factory: pytest.TempPathFactory, speakers: str, seed: int, share: float, ordered: bool
) -> None:
    folder = tmp_path_factory.mktemp("t")
    pairs = pairs_of(speakers, test="*") if ordered else pairs_of(speakers)
    num = max(1, int(share * pairs.count()[1]))
    write_all_pairs(folder / "all", pairs)
    assert write_drawn_pairs(folder / "drawn", pairs, num, seed) == (pairs.count()[0], num)
    every, drawn = read(folder / "all"), read(folder / "drawn")
    assert len(set(drawn)) == len(drawn)
    assert drawn == [trial for trial in every if trial in set(drawn)]
    assert [t for t in drawn if t[0] == "1"] == [t for t in every if t[0] == "1"]
    assert sum(t[0] == "0" for t in drawn) == num


@pytest.mark.parametrize("num_nontarget", [20, 1200])
def test_the_seed_sets_the_draw(tmp_path: Path, num_nontarget: int) -> None:
    pairs = pairs_of("ABCDE" * 12)
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        write_drawn_pairs(tmp_path / name, pairs, num_nontarget, seed)
    assert read(tmp_path / "x") == read(tmp_path / "y") != read(tmp_path / "z")


@pytest.mark.parametrize("num_nontarget", [3, 8])
def test_every_nontarget_pair_is_equally_likely(num_nontarget: int) -> None:
    pairs = pairs_of("ABCDBA")  # 13 pairs of two speakers
    counts = np.zeros((6, 6))
    for seed in range(2000):
        np.add.at(counts, pairs.draw_nontargets(num_nontarget, seed), 1)
    seen = counts[counts > 0]
    assert len(seen) == pairs.count()[1] == 13
    expected = 2000 * num_nontarget / 13
    assert np.abs(seen - expected).max() < 5 * np.sqrt(expected)


def test_a_million_trials_are_drawn_in_seconds(tmp_path: Path) -> None:
    rows = pl.int_range(100_000, eager=True)
    pairs = Pairs.of(pl.select(pl.format("utt{}", rows)).to_series(), (rows // 10).cast(pl.String))
    start = time.process_time()
    assert write_drawn_pairs(tmp_path / "trials", pairs, 1_000_000, 0) == (450_000, 1_000_000)
    assert time.process_time() - start < 10


def test_more_nontargets_than_there_are_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="9 non-target trials were asked for; between 1 and 4"):
        write_drawn_pairs(tmp_path / "trials", pairs_of("AABB"), 9, 0)
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize(
    ("speakers", "complaint"),
    [("AAA", "no non-target trial: there is only one speaker"), ("ABC", "no target trial")],
)
def test_a_list_of_one_kind_only_is_refused(tmp_path: Path, speakers: str, complaint: str) -> None:
    with pytest.raises(TrialError, match=complaint):
        write_all_pairs(tmp_path / "trials", pairs_of(speakers))
    assert not (tmp_path / "trials").exists()


def test_a_pattern_that_fits_nothing_shows_an_id() -> None:
    with pytest.raises(TrialError, match=r"the pattern '\*_7_\*' fits no utterance; ids look like 'A-0'"):
        pairs_of("AB", enrol="*_7_*")


def test_utterances_without_speakers_make_no_trials() -> None:
    with pytest.raises(TrialError, match="without speakers"):
        Pairs.of(pl.Series(["a", "b"]), pl.Series([None, "s"], dtype=pl.String))


UTTERANCES = ["a_7", "b_2_00_N1", "b_2_01_N1", "c_0", "c_1"]
BECAME = ["a_7", "b_2_00_N1", "b_2_00_N1", "c_0", "c_0"]


def renamed(path, text, became=BECAME):
    path.write_text(text)
    return rename_sides(read_trials(path).resolve(UTTERANCES), became)


def test_a_side_is_called_by_what_its_channels_have_become(tmp_path):
    table = renamed(tmp_path / "trials", "a_7.wav b_2_{}_N1.wav target\nc b_2_01_N1 nontarget\n")
    assert table.rows() == [(1, "a_7", "b_2_00_N1"), (0, "c_0", "b_2_00_N1")]
    write_table(tmp_path / "out", table)
    assert (tmp_path / "out").read_text() == "1 a_7 b_2_00_N1\n0 c_0 b_2_00_N1\n"
    again = read_trials(tmp_path / "out").resolve(["a_7", "b_2_00_N1", "c_0"])
    assert again.needed_ids == ["a_7", "b_2_00_N1", "c_0"]


def test_a_list_without_a_key_stays_without(tmp_path):
    assert renamed(tmp_path / "trials", "a_7 c\n").equals(pl.DataFrame({"enrol": ["a_7"], "test": ["c_0"]}))


def test_a_side_that_has_become_several_is_refused(tmp_path):
    with pytest.raises(
        TrialError, match=r"trials:2: 'c' has become several utterances, such as 'c_0' and 'c_1'"
    ):
        renamed(tmp_path / "trials", "a_7 b_2_{}_N1\na_7 c\n", [*BECAME[:3], "c_0", "c_1"])


WAV_SCP = "ann-near ann-near.wav\nann-far_0 x.wav\nann-far_1 x.wav\nben-near x.wav\nben-far x.wav\n"
UTT2COND = "utt_id\tdistance\tchannel\nann-far_0\t5m\t0\nann-far_1\t5m\t1\nben-far\t3m\t0\nann-near\t1m\t\n"


@pytest.fixture
def folder(tmp_path):
    rows = sorted(WAV_SCP.splitlines())
    (tmp_path / "wav.scp").write_text("".join(f"{row}\n" for row in rows))
    (tmp_path / "utt2spk").write_text("".join(f"{row.split()[0]} {row[:3]}\n" for row in rows))
    (tmp_path / "utt2cond").write_text(UTT2COND)
    return tmp_path


@pytest.fixture
def trials(tmp_path):
    def write_and_read(
        text="1 ann-near.wav ann-far\n0 ann-near ben-far\n1 ben-near ben-far\n0 ann-near ben-near\n",
    ):
        (tmp_path / "trials").write_text(text)
        return read_trials(tmp_path / "trials")

    return write_and_read


def test_speakers_are_those_of_the_data_dir_for_both_sides_and_for_channels(folder, trials):
    for source in (folder, folder / "utt2spk"):
        enrol, test, _ = speakers_from_dirs(trials(), [source])
        assert (enrol == test).tolist() == [True, False, True, False]
        assert len({*enrol.tolist(), *test.tolist()}) == 2


def test_several_sources_may_overlap_but_not_contradict(folder, trials):
    assert speakers_from_dirs(trials(), [folder, folder / "utt2spk"])
    (folder / "other").write_text("ann-near ben\n")
    with pytest.raises(TrialError, match="'ann-near' is of the speaker 'ann' in one source and of 'ben'"):
        speakers_from_dirs(trials(), [folder, folder / "other"])


def test_an_utterance_without_speaker_is_named_with_its_trial(folder, trials):
    with pytest.raises(TrialError, match="trials:2: no utterance 'dan-far'"):
        speakers_from_dirs(trials("1 ann-near ann-far\n0 ann-near dan-far\n"), [folder])
    (folder / "utt2spk").unlink()
    with pytest.raises(TrialError, match="has neither utt2spk nor spk2utt"):
        speakers_from_dirs(trials(), [folder])


def test_a_side_of_two_speakers_is_refused(folder, trials):
    (folder / "mixed").write_text("ann-near ann\nann-far_0 ann\nann-far_1 ben\n")
    with pytest.raises(TrialError, match="trials:1: the test side is of several speakers: "):
        speakers_from_dirs(trials("1 ann-near ann-far\n"), [folder / "mixed"])


def test_speakers_that_contradict_the_labels_are_named(folder, trials):
    with pytest.raises(TrialError, match="trials:2: labelled target, but its speakers are 'ann' and 'ben'"):
        speakers_from_dirs(trials("1 ann-near ann-far\n1 ann-near ben-far\n"), [folder])


def test_a_speaker_may_be_the_head_of_an_id_if_that_is_said(trials):
    enrol, test, names = speakers_from_ids(trials(), "-")
    assert names.to_list() == sorted(names)
    assert (enrol == test).tolist() == [True, False, True, False]
    with pytest.raises(TrialError, match=r"trials:1: 'ann-near\.wav' has nothing before a '/'"):
        speakers_from_ids(trials(), "/")


@settings(deadline=None)
@given(speakers=SPEAKERS, copies=st.lists(st.integers(0, 2), min_size=12, max_size=12), ordered=st.booleans())
def test_copies_of_one_recording_are_no_pair(
    tmp_path_factory: pytest.TempPathFactory, speakers: str, copies: list[int], ordered: bool
) -> None:
    folder = tmp_path_factory.mktemp("t")
    ids = [f"{speaker}-{row}" for row, speaker in enumerate(speakers)]
    recordings = [f"{speaker}{copy}" for speaker, copy in zip(speakers, copies, strict=False)]
    pairs = Pairs.of(
        pl.Series(ids),
        pl.Series([*speakers]),
        recordings=pl.Series(recordings),
        test="*" if ordered else None,
    )
    either = product(range(len(ids)), repeat=2) if ordered else combinations(range(len(ids)), 2)
    kept = [(ids[a], ids[b]) for a, b in either if recordings[a] != recordings[b]]
    num_target = sum(a[0] == b[0] for a, b in kept)
    assert pairs.count() == (num_target, len(kept) - num_target)
    if not num_target:
        with pytest.raises(TrialError, match="no target trial"):
            write_all_pairs(folder / "all", pairs)
        return
    write_all_pairs(folder / "all", pairs)
    assert read(folder / "all") == labelled(kept)
    write_drawn_pairs(folder / "drawn", pairs, max(1, pairs.count()[1] // 3), 0)
    assert set(read(folder / "drawn")) <= set(labelled(kept))
