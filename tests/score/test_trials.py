"""Trial lists of every form, and what their ids stand for."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farvox.errors import TrialError
from farvox.score import columns
from farvox.score.columns import stem_of
from farvox.score.trials import read_trials


@pytest.fixture
def listed(tmp_path):
    """Writes a trial list and reads it."""

    def write_and_read(text):
        path = tmp_path / "trials"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_trials(path)

    return write_and_read


FORMS = {
    "voxceleb": ("1 a b\n0 a c\n", "label (1/0), enrolment, test"),
    "himia": ("a b target\na c nontarget\n", "enrolment, test, label (target/nontarget)"),
    "sre": ("a b tgt\na c imp\n", "enrolment, test, label (tgt/imp)"),
    "homework": ("a b 1\na c 0\n", "enrolment, test, label (1/0)"),
    "label word first": ("target a b\nnontarget a c\n", "label (target/nontarget), enrolment, test"),
    "tabs": ("1\ta\tb\n0\ta\tc\n", "label (1/0), enrolment, test"),
    "runs of spaces": ("1  a b \n 0 a\tc\n", "label (1/0), enrolment, test"),
    "windows line ends": ("1 a b\r\n0 a c\r\n", "label (1/0), enrolment, test"),
    "no last line end": ("1 a b\n0 a c", "label (1/0), enrolment, test"),
    "blank lines at the end": ("1 a b\n0 a c\n\n \n", "label (1/0), enrolment, test"),
    "byte order mark": ("\ufeff1 a b\n0 a c\n", "label (1/0), enrolment, test"),
}


@pytest.mark.parametrize(("text", "form"), FORMS.values(), ids=FORMS)
def test_every_form_is_recognised_and_read(listed, text, form):
    trials = listed(text)
    assert trials.enrol.to_list() == ["a", "a"]
    assert trials.test.to_list() == ["b", "c"]
    assert trials.target.tolist() == [1, 0]
    assert trials.form == f"2 trials: {form}"


HEADERS = {
    "nist": ("modelid\tsegmentid\tside\nm1\ts1.sph\ta\nm2\ts2.sph\ta\n", None),
    "nist key": (
        "modelid\tsegmentid\tside\ttargettype\tnum_enroll_segs\tgender\n"
        "m1\ts1.sph\ta\ttarget\t1\tfemale\nm2\ts2.sph\ta\tnontarget\t3\tmale\n",
        [1, 0],
    ),
    "nist with an empty column": (
        "modelid\tsegmentid\tside\tgender\ttargettype\n"
        "m1\ts1.sph\ta\t\ttarget\nm2\ts2.sph\ta\tmale\tnontarget\n",
        [1, 0],
    ),
    "sdsv": ("model-id evaluation-file-id\nm1 s1.sph\nm2 s2.sph\n", None),
    "label first": ("label enroll test\n1 m1 s1.sph\n0 m2 s2.sph\n", [1, 0]),
}


@pytest.mark.parametrize(("text", "target"), HEADERS.values(), ids=HEADERS)
def test_a_header_names_the_columns(listed, text, target):
    trials = listed(text)
    assert trials.enrol.to_list() == ["m1", "m2"]
    assert trials.test.to_list() == ["s1.sph", "s2.sph"]
    assert (None if trials.target is None else trials.target.tolist()) == target
    assert trials.form.startswith(f"2 trials: {'label (1/0), ' * text.startswith('label')}enrolment, test")
    assert trials.form.endswith("(below a header)")
    with pytest.raises(TrialError, match=":3: no utterance 'm2'"):
        trials.resolve(["m1", "s1"])


def test_the_form_names_the_columns_in_the_order_of_the_header(listed):
    assert listed("test enrol\nb a\n").form == "1 trials: test, enrolment; no labels (below a header)"
    form = listed("segmentid targettype modelid\nb target a\nc nontarget a\n").form
    assert form == "2 trials: test, label (target/nontarget), enrolment (below a header)"


@pytest.mark.parametrize(
    "text", ["model1 test1\nmodel2 test2\n", "enrol_1 segment-1\na b\n", "1 enroll2 test2\n0 enroll2 test3\n"]
)
def test_ids_like_the_words_of_a_header_are_ids(listed, text):
    assert len(listed(text)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modelid segmentid side\nm1 s1 a\nm1 s2 b\n", "trials:3: side 'b' is not 'a'"),
        ("modelid segmentid side\n", "has a header and no trial"),
        ("modelid segmentid model\nm1 s1 m1\n", "trials:1: the header names"),
        ("modelid segmentid\nm1 s1 1\n", "trials:2: 3 columns, where the first line has 2"),
        ("modelid segmentid key\nm1 s1 yes\n", "trials:2: .*label"),
        ("modelid segmentid key\nm1 s1 1\nm2 s1 yes\n", "trials:3: 'yes' is not a label"),
    ],
)
def test_a_list_that_its_header_does_not_fit_is_refused_by_line(listed, text, message):
    with pytest.raises(TrialError, match=message):
        listed(text)


def test_a_list_of_two_columns_has_no_labels(listed):
    trials = listed("id06729 id01519\nid07225 id11126\n")
    assert trials.target is None
    assert trials.enrol.to_list() == ["id06729", "id07225"]
    assert trials.form == "2 trials: enrolment, test; no labels"


def test_ids_are_kept_as_spelled(listed):
    trials = listed('1 ä"1.wav #b\n0 0 ä"1.wav\n')
    assert trials.enrol.to_list() == ['ä"1.wav', "0"]
    assert trials.test.to_list() == ["#b", 'ä"1.wav']


def test_an_utterance_may_be_called_like_a_label(listed):
    trials = listed("1 target b\n0 target c\n")
    assert trials.enrol.to_list() == ["target", "target"]


FAULTS = {
    "empty": ("", "trials: the file is empty"),
    "only blank lines": ("\n\n", "trials: the file is empty"),
    "blank line inside": ("1 a b\n\n0 a c\n", "trials:2: blank line"),
    "blank line first": ("\n1 a b\n", "trials:1: blank line"),
    "one column": ("a\nb\n", "trials:1: 1 column, where 2 or 3 are expected"),
    "four columns": ("1 a b c\n", "trials:1: 4 columns, where 2 or 3 are expected"),
    "a column too few": ("1 a b\n0 a c\na b\n", "trials:3: 2 columns, where the first line has 3"),
    "a column too many": ("a b\n1 a b\n", "trials:2: 3 columns, where the first line has 2"),
    "other word": ("1 a b\n0 a c\n2 a d\n", r"trials:3: '2' is not a label: 2 of the 3 lines have 1/0 in"),
    "label moves": ("a b 1\na c 0\n1 a d\n", r"trials:3: 'd' is not a label.* 1/0 in the last column"),
    "words mixed": ("a b target\na c nontarget\na d 1\n", "trials:3: '1' is not a label"),
    "fault on the first line": ("x a b\n0 a c\n1 a d\n", "trials:1: 'x' is not a label"),
    "no label": ("a b c\nd e f\n", "trials:1: three columns, but neither the first nor the last is a label"),
    "label in the middle": ("a 1 b\nd 0 f\n", "trials:1: three columns, but neither"),
    "two labels": ("1 a 0\n0 b 1\n", "trials: both the first and the last column hold labels"),
    "not UTF-8": (b"1 a b\n0 a \xff\n", "trials:2: not UTF-8 text"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("block_bytes", [columns.BLOCK_BYTES, 1], ids=["one block", "a block a line"])
def test_an_inconsistent_list_is_refused_by_line(listed, monkeypatch, text, message, block_bytes):
    monkeypatch.setattr(columns, "BLOCK_BYTES", block_bytes)
    with pytest.raises(TrialError, match=message):
        listed(text)


@pytest.mark.parametrize(
    "words", ["Target Nontarget", "TGT IMP", "True False", "target NONTARGET", "1.0 0.0", "1 -1"]
)
def test_labels_may_be_in_capitals_or_other_numbers(listed, words):
    same, other = words.split()
    assert listed(f"a b {same}\na c {other}\n").target.tolist() == [1, 0]


def test_a_list_in_utf_16_is_named_as_such(listed):
    with pytest.raises(TrialError, match=r"trials: UTF-16 text.*iconv -f UTF-16"):
        listed("1 a b\n0 a c\n".encode("utf-16"))


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(TrialError, match="nowhere: No such file"):
        read_trials(tmp_path / "nowhere")


# every word is longer than a label can be, so that no column of ids looks like labels
words = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=10, max_size=12)


@given(
    pairs=st.lists(
        st.tuples(words, words, st.sampled_from([0, 1])),
        min_size=1,
        max_size=30,
        unique_by=lambda trial: frozenset(map(stem_of, trial[:2])),  # else labels may contradict each other
    ),
    spelling=st.sampled_from([("nontarget", "target"), ("imp", "tgt")]),
    label_first=st.booleans(),
    separator=st.sampled_from([" ", "\t", "  ", " \t"]),
    block_bytes=st.integers(1, 200),
)
def test_what_is_written_is_read(tmp_path_factory, pairs, spelling, label_first, separator, block_bytes):
    path = tmp_path_factory.mktemp("trials") / "trials"
    rows = [(spelling[k], e, t) if label_first else (e, t, spelling[k]) for e, t, k in pairs]
    path.write_bytes("".join(separator.join(row) + "\n" for row in rows).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BLOCK_BYTES", block_bytes)
        trials = read_trials(path)
    found = zip(trials.enrol, trials.test, trials.target.tolist(), strict=True)
    assert list(found) == pairs


def test_ids_match_with_and_without_a_suffix(listed, sides_of_trials):
    trials = listed("1 a.wav b\n0 a.wav c.flac\n")
    resolved = trials.resolve(["c", "b.wav", "a"])
    assert sides_of_trials(resolved) == [(("a",), ("b.wav",)), (("a",), ("c",))]


@pytest.mark.parametrize("suffix", [".wav", ".WAV", ".flac", ".m4a", ".mp3", ".sph"])
def test_each_suffix_of_the_published_lists_may_be_left_out(listed, sides_of_trials, suffix):
    resolved = listed(f"1 a{suffix} b\n").resolve(["a", f"b{suffix}"])
    assert sides_of_trials(resolved) == [(("a",), (f"b{suffix}",))]


def test_voxceleb_paths_match_joined_ids(listed, sides_of_trials):
    trials = listed("1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav\n")
    utt_ids = ["id10270-8jEAjG6SegY-00008", "id10270-x6uYqmx31kE-00001"]
    resolved = trials.resolve(utt_ids)
    assert sides_of_trials(resolved) == [((utt_ids[1],), (utt_ids[0],))]
    assert resolved.target.tolist() == [1]


def test_braces_stand_for_every_microphone_there_is(listed, sides_of_trials):
    trials = listed("SV0299_7_01_S0096.wav SV0333_2_{}_N0124.wav nontarget\n")
    mics = [f"SV0333_2_{mic:02d}_N0124" for mic in (3, 0, 15)]
    others = ["SV0333_2_0a_N0124", "SV0333_5_01_N0124", "SV0333_2_01_N0125", "SV0299_7_01_S0096"]
    resolved = trials.resolve(others + mics)
    ((_, test),) = sides_of_trials(resolved)
    assert test == tuple(sorted(mics))
    assert resolved.reading == "1 id with {} read as its microphones (3 each)"


def test_an_id_that_names_no_utterance_stands_for_its_channels(listed, sides_of_trials):
    trials = listed("id1 id2\nid1 id3\n")
    utt_ids = ["id1", *(f"id2_{n}" for n in range(11)), "id3_1", "id3_0", "id2_00", "id2_a"]
    with pytest.raises(
        TrialError, match=r"trials:2: 'id3' lacks channels 2, 3, 4, 5, ..., which others have"
    ):
        trials.resolve(utt_ids)
    resolved = trials.resolve(utt_ids, allow_missing_channels=True)
    sides = [test for _, test in sides_of_trials(resolved)]
    assert sides == [tuple(f"id2_{n}" for n in range(11)), ("id3_0", "id3_1")]
    assert resolved.reading == (
        "2 ids read as their channels ID_0, ID_1, ... (2 to 11 each);"
        " 9 missing channels of 1 id, the first 'id3' (2, 3, 4, 5, ...)"
    )


def test_a_gap_among_the_channels_is_refused(listed):
    with pytest.raises(TrialError, match=r"trials:1: 'id2' stands for its channels, but 'id2_1' is missing"):
        listed("id1 id2\n").resolve(["id1", "id2_0", "id2_2"])


def test_an_id_with_two_readings_is_refused_unless_one_is_chosen(listed, sides_of_trials):
    trials = listed("a c\na b\nb a\n")
    utt_ids = ["a", "b", "b_0", "b_1", "c_0", "c_1"]
    with pytest.raises(TrialError, match=r"trials:2: 'b' is an utterance, and its channels 'b_0', ... are"):
        trials.resolve(utt_ids)
    readings = {"enrol": (1, 2), "test": (2, 1), "both": (2, 2), "neither": (1, 1)}
    for channel_ids, lengths in readings.items():
        _, (_, test), (enrol, _) = sides_of_trials(trials.resolve(utt_ids, channel_ids))
        assert (len(test), len(enrol)) == lengths


def test_an_unknown_id_is_named_at_its_line_with_the_count_of_others(listed):
    with pytest.raises(TrialError, match=r"trials:2: no utterance 'x' among the 2 there are.*'a'.*1 more"):
        listed("a b\na x\ny x\n").resolve(["a", "b"])


def test_braces_that_match_nothing_are_named(listed):
    with pytest.raises(TrialError, match=r"trials:1: no utterance matches 'b_\{\}' with digits"):
        listed("a b_{}\n").resolve(["a", "b_x"])
    with pytest.raises(TrialError, match=r"trials:1: 'b_\{\}_\{\}' has more than one"):
        listed("a b_{}_{}\n").resolve(["a", "b_1_1"])


def test_ids_that_differ_in_their_suffix_only_are_not_guessed(listed):
    trials = listed("a b\n")
    with pytest.raises(TrialError, match=r"trials:1: 'a' can be any of 'a.wav', 'a.flac'"):
        trials.resolve(["a.wav", "a.flac", "b"])
    assert trials.resolve(["a.wav", "a", "b"]).needed_ids == ["a", "b"]


def test_an_utterance_that_is_there_twice_is_refused(listed):
    with pytest.raises(TrialError, match="'a' is there twice"):
        listed("a b\n").resolve(["a", "b", "a"])


def test_only_what_the_trials_need_is_needed(listed):
    resolved = listed("1 b d\n0 d e\n").resolve(["a", "b", "c", "d", "e_0", "e_1"])
    assert resolved.needed_ids == ["b", "d", "e_0", "e_1"]
    assert resolved.needed_rows.tolist() == [1, 3, 4, 5]
    assert resolved.target.tolist() == [1, 0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.randoms())
def test_every_trial_resolves_to_its_own_utterances(tmp_path_factory, sides_of_trials, num_channels, random):
    sides = {f"u{n}": [f"u{n}_{c}" for c in range(k)] for n, k in enumerate(num_channels)}
    utt_ids = list(itertools.chain(*sides.values()))
    random.shuffle(utt_ids)
    pairs = list(itertools.product(sides, sides))
    path = tmp_path_factory.mktemp("trials") / "trials"
    path.write_text("".join(f"{e} {t}\n" for e, t in pairs))
    resolved = read_trials(path).resolve(utt_ids, allow_missing_channels=True)
    found = sides_of_trials(resolved)
    assert found == [(tuple(sides[e]), tuple(sides[t])) for e, t in pairs]


def test_a_million_lines_are_read_in_about_a_second(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 500, (250_000, 2))
    text = "".join(f"1 spk{e:03d}-utt.wav spk{t:03d}-utt.wav\n" for e, t in numbers)
    path = tmp_path / "trials"
    path.write_text(text * 4)
    trials = read_trials(path)
    assert len(trials) == 1_000_000 and len(trials.ids) <= 501
    assert trials.enrol[999_999] == f"spk{numbers[-1, 0]:03d}-utt.wav"


@pytest.mark.parametrize("second", ["0 a b", "0 b a", "0 b.wav a"], ids=["same", "swapped", "with suffix"])
def test_a_pair_that_is_target_and_non_target_is_refused_by_line(tmp_path, second):
    (tmp_path / "list").write_text(f"1 a c\n1 a b\n0 c d\n{second}\n1 a b\n")
    with pytest.raises(TrialError) as refused:
        read_trials(tmp_path / "list")
    for part in ("list:4: ", "non-target, and target on line 2", "1 such pairs"):
        assert part in str(refused.value)


def test_repeats_that_agree_are_counted(tmp_path):
    (tmp_path / "list").write_text("1 a b\n0 c d\n1 a b\n1 b a\n")
    assert read_trials(tmp_path / "list").form.endswith("; 2 of them repeat an earlier pair")
    (tmp_path / "list").write_text("a b\nc d\na b\n")
    assert (
        read_trials(tmp_path / "list").form
        == "3 trials: enrolment, test; no labels; 1 of them repeat an earlier pair"
    )
    (tmp_path / "list").write_text("a b\nc d\n")
    assert "repeat" not in read_trials(tmp_path / "list").form


@given(
    sides=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True), min_size=1, max_size=5),
    recordings=st.lists(st.sampled_from("abcd"), min_size=9, max_size=9),
)
def test_sides_that_share_a_recording_are_found(tmp_path_factory, sides, recordings):
    path = tmp_path_factory.mktemp("trials") / "trials"
    pairs = list(itertools.product(range(len(sides)), repeat=2))
    path.write_text("".join(f"m{one} m{other}\n" for one, other in pairs))
    side_map = {f"m{n}": [f"u{row}" for row in rows] for n, rows in enumerate(sides)}
    resolved = read_trials(path).resolve([f"u{n}" for n in range(9)], enrol_map=side_map, test_map=side_map)
    is_self, is_inside = resolved.shared(pl.Series(recordings))
    of_side = [{recordings[row] for row in rows} for rows in sides]
    shared = [bool(of_side[one] & of_side[other]) for one, other in pairs]
    assert (is_self | is_inside).tolist() == shared and not (is_self & is_inside).any()
    single = [len(of_side[one]) == len(of_side[other]) == 1 for one, other in pairs]
    assert is_self.tolist() == [both and alone for both, alone in zip(shared, single, strict=True)]


@pytest.mark.parametrize("again", ["b a", "a b", "a.wav b.flac"])
def test_a_pair_that_is_labelled_both_ways_is_refused_by_line(listed, again):
    with pytest.raises(TrialError, match=r":3: .* non-target, and target on line 1 \(1 such pairs\)"):
        listed(f"1 a b\n0 a c\n0 {again}\n")
    assert "1 of them repeat an earlier pair" in listed(f"1 a b\n0 a c\n1 {again}\n").form


def test_below_a_header_models_are_no_segments(listed):
    form = listed("modelid segmentid targettype\n1 2 target\n2 1 nontarget\n").form
    assert "repeat" not in form
