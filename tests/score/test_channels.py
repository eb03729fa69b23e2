"""Sides of several utterances: every rule against a loop, the homework's and Kaldi's among them."""

import itertools

import numpy as np
import pytest

from farvox.errors import TrialError
from farvox.score.channels import RULES as ALL_RULES
from farvox.score.channels import expand
from farvox.score.cosine import cosine_scores, side_embeddings
from farvox.score.sides import read_side_map
from farvox.score.trials import read_trials, write_trials

MICS = range(16)


@pytest.fixture
def listed(tmp_path):
    def write(text, name="trials"):
        (tmp_path / name).write_text(text)
        return read_trials(tmp_path / name)

    return write


@pytest.fixture
def himia(listed):
    """Trials as HI-MIA's ``trials_mic``, and embeddings of very different lengths."""
    enrols = [f"SV{speaker:04}_7_01_N{take:04}" for speaker in (1, 2, 3) for take in (1, 2)]
    tests = [f"SV{speaker:04}_{point}_{{}}_S0003" for speaker in (1, 2, 3) for point in (2, 5)]
    utt_ids = [*enrols, *(test.format(f"{mic:02}") for test in tests for mic in MICS)]
    rng = np.random.default_rng(7)
    emb_NE = rng.standard_normal((len(utt_ids), 24)) * rng.uniform(0.2, 5, (len(utt_ids), 1))
    pairs = itertools.product(enrols, tests)
    lines = [f"{e}.wav {t}.wav {'target' if e[:6] == t[:6] else 'nontarget'}\n" for e, t in pairs]
    return listed("".join(lines)), utt_ids, emb_NE.astype(np.float32)


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.fixture
def sides_of(sides_of_trials):
    """A function that gives the embeddings of both sides of every trial, [utterances of the side, E] each."""

    def sides_of(resolved, emb_NE):
        row = {utt_id: n for n, utt_id in enumerate(resolved.utt_ids)}
        for sides in sides_of_trials(resolved):
            yield tuple(emb_NE[[row[utt_id] for utt_id in side]].astype(float) for side in sides)

    return sides_of


def test_the_homeworks_rule_is_reproduced(himia):
    """Look up the embedding of the enrolment; add up those of microphones 0 to 15; take the cosine."""
    trials, utt_ids, emb_NE = himia
    embedding_of = dict(zip(utt_ids, emb_NE, strict=True))
    expected = []
    for enrol, test in zip(trials.enrol, trials.test, strict=True):
        enrolled, total = embedding_of[enrol[:-4]], np.zeros(24)
        for mic in range(16):
            total = total + embedding_of[test[:-4].replace("{}", str(mic).zfill(2))]
        expected.append(enrolled @ total / (np.linalg.norm(enrolled) * np.linalg.norm(total)))
    scores = cosine_scores(trials.resolve(utt_ids), emb_NE, "sum")
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_kaldis_rule_is_reproduced(himia, tmp_path):
    """For each line, for microphones 1 to 15, a trial with the number in place of ``{}``."""
    trials, utt_ids, emb_NE = himia
    embedding_of = dict(zip(utt_ids, emb_NE, strict=True))
    lines, expected = [], []
    for line in trials.path.read_text().splitlines():
        enrol, test, label = line.replace(".wav", "").split()
        for mic in range(1, 16):
            channel = test.replace("{}", f"{mic:02}")
            lines.append([enrol, channel, label])
            expected.append(unit(embedding_of[enrol]) @ unit(embedding_of[channel]))
    resolved = expand(trials.resolve(utt_ids, first_channel=1))
    np.testing.assert_allclose(cosine_scores(resolved, emb_NE), expected, rtol=0, atol=1e-6)
    write_trials(tmp_path / "expanded", resolved.trials)
    written = (tmp_path / "expanded").read_text().replace(".wav", "").splitlines()
    assert [line.split() for line in written] == lines


def test_where_both_sides_have_channels_those_of_one_number_meet(listed, tmp_path):
    trials = listed("a_{} b_{} target\nc b_{} nontarget\nd e target\n")
    utt_ids = [*(f"a_{n}" for n in (1, 2, 3)), *(f"b_{n}" for n in (3, 2, 1)), "c", "d", "e"]
    write_trials(tmp_path / "expanded", expand(trials.resolve(utt_ids)).trials)
    assert (tmp_path / "expanded").read_text().splitlines() == [
        *(f"a_{n} b_{n} target" for n in (1, 2, 3)),
        *(f"c b_{n} nontarget" for n in (1, 2, 3)),
        "d e target",
    ]


def test_sides_without_a_common_channel_cannot_be_expanded(listed):
    trials = listed("c a_{}\nb_{} a_{}\n")
    resolved = trials.resolve(["a_1", "a_2", "b_3", "b_4", "c"], allow_missing_channels=True)
    with pytest.raises(TrialError, match="trials:2: the two sides have no channel of the same number"):
        expand(resolved)


@pytest.mark.parametrize("block", [1, 2, 50_000])
def test_an_expanded_list_is_resolved_as_it_was_expanded(himia, tmp_path, monkeypatch, block):
    monkeypatch.setattr("farvox.score.channels.TRIALS_PER_BLOCK", block)
    trials, utt_ids, emb_NE = himia
    expanded = expand(trials.resolve(utt_ids))
    write_trials(tmp_path / "expanded", expanded.trials)
    again = read_trials(tmp_path / "expanded")
    assert len(again) == len(expanded) == 36 * 16
    assert np.array_equal(again.target, expanded.target)
    scores = cosine_scores(again.resolve(utt_ids), emb_NE)
    assert np.array_equal(scores, cosine_scores(expanded, emb_NE))


RULES = {
    "mean-norm": lambda e, t: unit(np.mean([unit(c) for c in e], 0)) @ unit(np.mean([unit(c) for c in t], 0)),
    "mean": lambda e, t: unit(e.mean(0)) @ unit(t.mean(0)),
    "sum": lambda e, t: unit(e.sum(0)) @ unit(t.sum(0)),
    "score-mean": lambda e, t: np.mean([unit(a) @ unit(b) for a in e for b in t]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("block_bytes", [1, 1 << 23])
def test_a_rule_does_what_it_is_called(listed, monkeypatch, rule, block_bytes, sides_of):
    monkeypatch.setattr("farvox.score.cosine.BYTES_PER_BLOCK", block_bytes)
    trials = listed("a b\nb c\nc a\nd a\n")
    utt_ids = [*(f"{name}_{n}" for name in "abc" for n in range(5)), "d"]
    emb_NE = np.random.default_rng(1).standard_normal((16, 8)) * np.arange(1, 17)[:, None]
    centre_E = np.full(8, 0.3)
    resolved = trials.resolve(utt_ids)
    expected = [RULES[rule](e - centre_E, t - centre_E) for e, t in sides_of(resolved, emb_NE)]
    scores = cosine_scores(resolved, emb_NE, rule, centre_E=centre_E)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


def test_the_best_channel_is_the_first_of_the_highest_quality(listed):
    resolved = listed("a b\nc b\n").resolve(["c", "b_0", "b_1", "b_2", "a_0", "a_1", "a_2"])
    emb_NE = np.random.default_rng(1).standard_normal((7, 8))
    quality_N = [np.nan, 3, 9, 9, 12, 1, -5]
    scores = cosine_scores(resolved, emb_NE, "best", quality_N=quality_N)
    expected = [unit(emb_NE[4]) @ unit(emb_NE[2]), unit(emb_NE[0]) @ unit(emb_NE[2])]
    np.testing.assert_allclose(scores, expected, atol=1e-12)


def test_a_channel_weighs_by_its_ratio_of_amplitudes(listed):
    resolved = listed("a b\n").resolve(["a", "b_0", "b_1"])
    emb_NE = np.random.default_rng(1).standard_normal((3, 8))
    (score,) = cosine_scores(resolved, emb_NE, "weighted", quality_N=[np.nan, 26.0, 20.0])
    merged = unit(emb_NE[1]) * 10 ** (6 / 20) + unit(emb_NE[2])
    assert score == pytest.approx(unit(emb_NE[0]) @ unit(merged), abs=1e-12)


@pytest.mark.parametrize("rule", ["best", "weighted"])
def test_a_quality_that_is_not_known_is_asked_for(listed, rule):
    resolved = listed("a b\n").resolve(["a", "b_0", "b_1"])
    emb_NE = np.random.default_rng(1).standard_normal((3, 8))
    with pytest.raises(TrialError, match=r"needs the quality of every utterance.*farvox extract --quality"):
        cosine_scores(resolved, emb_NE, rule)
    with pytest.raises(TrialError, match="needs the quality of 'b_1'"):
        cosine_scores(resolved, emb_NE, rule, quality_N=[1, 2, np.nan])


@pytest.mark.parametrize("rule", ALL_RULES)
def test_a_side_of_one_utterance_is_that_utterance(listed, rule):
    resolved = listed("a b\n").resolve(["a", "b"])
    emb_NE = np.random.default_rng(1).standard_normal((2, 8))
    sides_SE = side_embeddings(resolved, emb_NE, rule, quality_N=[np.nan, np.nan])
    np.testing.assert_allclose(sides_SE, [unit(emb_NE[0]), unit(emb_NE[1])], atol=1e-12)


def test_a_map_names_several_takes_and_their_channels(listed, tmp_path, sides_of_trials):
    (tmp_path / "map").write_text("anna a1.wav a2_{}\nroom b_1 b_3\n")
    names = read_side_map(tmp_path / "map")
    utt_ids = ["a1", "a2_0", "a2_1", "b_1", "b_2", "b_3", "anna"]
    resolved = listed("anna room\nb_2 anna\n").resolve(
        utt_ids, enrol_map=names, test_map={"room": names["room"]}
    )
    assert sides_of_trials(resolved) == [(("a1", "a2_0", "a2_1"), ("b_1", "b_3")), (("b_2",), ("anna",))]


@pytest.mark.parametrize(
    "text",
    [
        "m1 s1\nm2 s3\nm1 s2\n",
        "modelid\tsegmentid\tside\nm1\ts1\ta\nm1\ts2\ta\nm2\ts3\ta\n",  # NIST's enrollment.tsv
        "model-id enroll-file-id1 enroll-file-id2\nm1 s1 s2\nm2 s3\n",  # SdSV, text-independent
        "model-id enroll-file-id1 ...\nm1 s1 s2\nm2 s3\n",
        "model-id phrase-id enroll-file-id1 enroll-file-id2 enroll-file-id3\nm1 05 s1 s2\nm2 01 s3\n",
    ],
)
def test_models_of_nist_and_sdsv_are_read(tmp_path, text):
    (tmp_path / "map").write_text(text)
    assert read_side_map(tmp_path / "map") == {"m1": ["s1", "s2"], "m2": ["s3"]}


def test_a_side_that_a_map_names_stays_one_side_when_expanded(listed, tmp_path):
    trials = listed("anna b_{} 1\n")
    utt_ids = ["a_1", "a_2", "b_1", "b_2"]
    emb_NE = np.random.default_rng(1).standard_normal((4, 8))
    resolved = expand(trials.resolve(utt_ids, enrol_map={"anna": ["a_{}"]}))
    write_trials(tmp_path / "expanded", resolved.trials)
    assert (tmp_path / "expanded").read_text() == "anna b_1 target\nanna b_2 target\n"
    anna = unit(unit(emb_NE[0]) + unit(emb_NE[1]))
    expected = [anna @ unit(emb_NE[2]), anna @ unit(emb_NE[3])]
    np.testing.assert_allclose(cosine_scores(resolved, emb_NE), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("anna\n", "map:1: a line is 'model utt1 utt2 ...'"),
        ("anna a1\n\n", "map:2: a line is"),
        ("anna a1 a2\nanna a3\n", "map:2: the model 'anna' is there twice"),
        ("modelid\tsegmentid\tside\nm1\ts1\n", "map:2: a line is"),
        ("modelid\tsegmentid\tside\nm1\ts1\ta\nm1\ts2\tb\n", "map:3: side 'b' is not 'a'"),
    ],
)
def test_a_faulty_map_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "map").write_text(text)
    with pytest.raises(TrialError, match=message):
        read_side_map(tmp_path / "map")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["a1", "a9"], "trials:1: in the model 'anna': no utterance 'a9'"),
        (["a1", "a1.wav"], "trials:1: in the model 'anna': the utterance 'a1' is there twice"),
    ],
)
def test_a_model_of_unknown_or_repeated_utterances_is_refused(listed, members, message):
    with pytest.raises(TrialError, match=message):
        listed("anna b\n").resolve(["a1", "b"], enrol_map={"anna": members})


def test_channels_that_one_side_lacks_and_others_have_are_an_error_or_counted(himia):
    trials, utt_ids, emb_NE = himia
    kept = [n for n, utt_id in enumerate(utt_ids) if utt_id not in ("SV0001_5_03_S0003", "SV0001_5_15_S0003")]
    fewer = [utt_ids[n] for n in kept]
    with pytest.raises(
        TrialError, match=r"trials:2: 'SV0001_5_\{\}_S0003.wav' lacks channels 3, 15, which others"
    ):
        trials.resolve(fewer)
    resolved = trials.resolve(fewer, allow_missing_channels=True)
    assert resolved.reading == (
        "6 ids with {} read as their microphones (14 to 16 each);"
        " 2 missing channels of 1 id, the first 'SV0001_5_{}_S0003.wav' (3, 15)"
    )
    assert len(cosine_scores(resolved, emb_NE[kept])) == 36


def test_a_whole_microphone_may_be_left_out(himia, sides_of_trials):
    trials, utt_ids, _ = himia
    resolved = trials.resolve(utt_ids, first_channel=1)
    assert all(len(test) == 15 for _, test in sides_of_trials(resolved))
    with pytest.raises(TrialError, match="has no channel from number 16 on"):
        trials.resolve(utt_ids, first_channel=16)
