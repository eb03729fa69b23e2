import dataclasses

import numpy as np
import pytest

from farvox.errors import StoreError
from farvox.verifier.enrolment import Enrolled, Enrolment, speaker_name

ANNA = {"name": "Anna", "model_digest": "d" * 64, "model_name": "m", "num_recordings": 2, "seconds": 9.5}


def test_an_enrolment_keeps_a_read_only_copy_of_its_template():
    given_E = np.array([3, 4], np.float32)
    enrolment = Enrolment(**ANNA, template_E=given_E)
    given_E[:] = 0
    np.testing.assert_array_equal(enrolment.template_E, [3, 4])
    with pytest.raises(ValueError, match="read-only"):
        enrolment.template_E[0] = 1


def test_enrolments_are_equal_if_their_templates_are():
    one, other = np.array([3, 4], np.float32), np.array([4, 3], np.float32)
    enrolment = Enrolment(**ANNA, template_E=one, enrolled_at="2026-01-02T03:04:05+00:00")
    assert enrolment == dataclasses.replace(enrolment, template_E=one.copy())
    assert hash(enrolment) == hash(dataclasses.replace(enrolment, template_E=one.copy()))
    assert enrolment != dataclasses.replace(enrolment, template_E=other)
    assert enrolment != Enrolled(**ANNA)


def test_numbers_of_numpy_become_plain_ones():
    enrolled = Enrolled(**{**ANNA, "num_recordings": np.int64(3), "seconds": np.float32(1.5)})
    assert (type(enrolled.num_recordings), type(enrolled.seconds)) == (int, float)


@pytest.mark.parametrize(
    ("template_E", "complaint"),
    [
        (np.zeros(3, np.float32), "is zero"),
        (np.array([1, np.nan], np.float32), "not finite"),
        (np.array([1, -np.inf], np.float32), "not finite"),
        (np.ones((1, 3), np.float32), r"float32 \[1, 3\]"),
        (np.empty(0, np.float32), r"float32 \[0\]"),
        (np.ones(3), "is float64, not float32"),
    ],
)
def test_a_template_without_a_direction_is_refused(template_E, complaint):
    with pytest.raises(StoreError, match=f"the template of 'Anna'.*{complaint}"):
        Enrolment(**ANNA, template_E=template_E)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("model_digest", "", "digest"),
        ("num_recordings", 0, "0 recordings"),
        ("seconds", float("nan"), "nan s"),
        ("seconds", -1.0, "-1.0 s"),
        ("enrolled_at", "yesterday", "'yesterday'"),
        ("enrolled_at", "2026-01-02T03:04:05", "no UTC time"),
        ("enrolled_at", "2026-01-02T03:04:05+08:00", "no UTC time"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value, complaint):
    with pytest.raises(StoreError, match=f"'Anna': .*{complaint}"):
        Enrolled(**{**ANNA, field: value})


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("  Anna ", "Anna"),
        ("Ame\u0301lie", "Am\u00e9lie"),
        ("山田\u3000太郎", "山田\u3000太郎"),
        ("می\u200cخ", "می\u200cخ"),
        ("O'Brien (2)", "O'Brien (2)"),
        ("🙂", "🙂"),
        ("é" * 200, "é" * 200),
    ],
)
def test_names_are_stripped_and_normalised(name, kept):
    assert speaker_name(name) == kept


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "nothing in it to read"),
        (" \t\n", "nothing in it to read"),
        ("\u200d\u200d", "nothing in it to read"),
        ("a\nb", "do not print"),
        ("a\x1b[31m", "do not print"),
        ("a\x00", "do not print"),
        ("a\u202eb", "do not print"),
        ("a\udcffb", "do not print"),
        ("a" * 201, "201 characters long"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(name, complaint):
    with pytest.raises(StoreError, match=complaint) as caught:
        speaker_name(name)
    str(caught.value).encode()  # can be printed
