"""Text and arrays that mean harm, or that a disk damaged, end in one kind of error."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from farvox.errors import FarvoxError
from farvox.parsing import MOST_LEVELS, parse_json, parse_toml, read_array, read_record

KINDS = ("<f2", "<f4", "<f8", ">f4", "|i1", "<i4", "<i8", "|u1", "<u8")


@pytest.mark.parametrize("number", [MOST_LEVELS - 1, MOST_LEVELS, 900, 100_000])
def test_only_nesting_that_nobody_means_is_refused(number):
    texts = ("[" * number + "]" * number, '{"a":' * number + "1" + "}" * number)
    for text in texts:
        if number < MOST_LEVELS:
            assert parse_json(text)
        else:
            with pytest.raises(ValueError, match="nested deeper"):
                parse_json("[" + text + "]")
    with pytest.raises(ValueError, match="nested deeper"):
        parse_toml("a = " + "[" * max(number, 100) + "]" * max(number, 100))
    with pytest.raises(ValueError, match=r"nested deeper|more than 1,000 dots"):
        parse_toml("a" + ".a" * max(number, 100) + " = 1")


@pytest.mark.parametrize("text", ["", "{", "9" * 5000, "\x00", "[1,]", "nul"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_number_without_end_is_told_in_plain_words():
    for parse, text in ((parse_json, "{}"), (parse_toml, "a = {}")):
        with pytest.raises(ValueError, match=r"^it has a whole number of more than 4,300 digits$"):
            parse(text.format("9" * 5000))


@pytest.mark.parametrize("text", ["a", "a = " + "9" * 5000, "a = 1\na = 2", "a = \x00", "[a"])
def test_what_is_no_toml_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_toml(text)


def test_a_damaged_record_is_named_and_an_absent_one_is_empty(tmp_path):
    path = tmp_path / "record.json"
    assert read_record(path) == {}
    path.write_text('{"a": 1}')
    assert read_record(path) == {"a": 1}
    for text in ("", "[1, 2]", "3", "null", "[" * 10_000, "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(FarvoxError, match=r"record\.json: damaged"):
            read_record(path)


@given(array=st.sampled_from(KINDS).flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, min_side=0))))
def test_an_array_is_read_as_numpy_reads_it(array, tmp_path_factory):
    path = tmp_path_factory.mktemp("array") / "a.npy"
    for each in (array, np.asfortranarray(array)):
        np.save(path, each)
        for found in (read_array(path), read_array(path, mapped=True), np.load(path)):
            np.testing.assert_array_equal(found, each)
            assert (found.dtype, found.shape) == (each.dtype, each.shape)


def npy(header, content=b""):
    text = header.encode() + b" " * 10 + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        npy(PLAIN, bytes(7)),
        npy(PLAIN, bytes(9)),
        npy(PLAIN.replace("<f4", "|O"), bytes(8)),
        npy(PLAIN.replace("<f4", "<f16"), bytes(32)),
        npy(PLAIN.replace("'<f4'", "[('a', '|O')]"), bytes(16)),
        npy(PLAIN.replace("'<f4'", "__import__('os').getcwd()"), bytes(16)),
        npy(PLAIN.replace("(2,)", "(-1, -2)"), bytes(8)),
        npy(PLAIN.replace("(2,)", "(,)"), bytes(8)),
        npy(PLAIN.replace("(2,)", "(" + "9" * 150 + ",)"), bytes(8)),
        npy(PLAIN.replace("(2,)", "(" + "9" * 5000 + ",)"), bytes(8)),
        npy(PLAIN.replace("(2,)", f"(0, {1 << 62})")),
        npy(PLAIN.replace("(2,)", f"(0, {1 << 45}, {1 << 45})")),
        npy(PLAIN.replace("(2,)", "(" + "1, " * 66 + "2)"), bytes(8)),
        npy("(" * 20_000),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_that_is_no_array_of_numbers_is_a_value_error(tmp_path, content, mapped):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError):
        read_array(tmp_path / "a.npy", mapped=mapped)


@given(place=st.integers(0, 200), byte=st.integers(0, 255), length=st.integers(0, 200))
def test_any_damage_is_a_value_error_or_other_numbers(place, byte, length, tmp_path_factory):
    content = io.BytesIO()
    np.save(content, np.arange(8, dtype=np.float32).reshape(2, 4))
    damaged = bytearray(content.getvalue())
    damaged[min(place, len(damaged) - 1)] = byte
    path = tmp_path_factory.mktemp("array") / "a.npy"
    path.write_bytes(damaged[: max(length, 100)] if length < 190 else damaged)
    with contextlib.suppress(ValueError):
        assert read_array(path).nbytes <= 32
