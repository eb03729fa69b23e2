"""Options dataclasses: one declaration that tables, flags and Python are checked by."""

from __future__ import annotations

import importlib
import pkgutil
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import farvox
from farvox.cli.flags import parse
from farvox.cli.main import main
from farvox.errors import ModelError, RecipeError, UsageError
from farvox.options import (
    Above,
    AtLeast,
    AtMost,
    Metavar,
    Options,
    Part,
    Repeated,
    Table,
    described,
    field_docs,
    from_table,
    kinds,
    merge,
    nearest,
    taken_from,
    to_table,
)


def _subclasses(cls):
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_no_float_option_of_farvox_takes_what_is_no_number(number):
    for module in pkgutil.walk_packages(farvox.__path__, "farvox."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    tried = 0
    for cls in dict.fromkeys(_subclasses(Options)):
        for name, kind in kinds(cls).items() if cls.__module__.startswith("farvox.") else ():
            is_list = typing.get_origin(kind.type) is tuple and "float" in str(kind.type)
            if kind.type is not float and not is_list:
                continue
            value = float(number)
            if is_list:
                value = [value] * (1 if typing.get_args(kind.type)[-1] is Ellipsis else 2)
            with pytest.raises(UsageError, match=f"{name} = {number}; it must be a finite number"):
                from_table(cls, {name: value}, "test", UsageError)
            tried += 1
    assert tried > 60


@pytest.mark.parametrize("number", ["nan", "inf", "1e400"])
def test_no_flag_that_is_a_number_takes_what_is_none(number, voices, model_folder, tmp_path, capsys):
    """Those that belong to no dataclass."""
    (wav, other), model = (str(voices / f"{name}.wav") for name in ("a0", "b0")), str(model_folder)
    (tmp_path / "trials").write_text("1 a b\n0 a c\n")
    (tmp_path / "scores").write_text("a b 0.9\na c 0.1\n")
    lists = [str(tmp_path / name) for name in ("trials", "scores")]
    for words in (
        ["verify", wav, other, "--model", model, "--threshold", number],
        ["identify", wav, "--model", model, "--threshold", number, "--store", str(tmp_path / "store")],
        ["average", str(tmp_path / "mean"), model, model, "--weights", "1", number],
        ["evaluate", *lists, "--json", "--threshold", number],
        ["evaluate", *lists, "--json", "--p-target", number],
    ):
        assert main(words) in (1, 2), words
        said = capsys.readouterr()
        assert float(number) == float("inf") or "nan" in said.err
        assert number not in said.out


@dataclass(frozen=True, kw_only=True)
class Inner(Options):
    """Options inside others."""

    rate: Annotated[float, AtLeast(0)] = 0.1
    """Rate of
    the step."""


@dataclass(frozen=True, kw_only=True)
class Sample(Options):
    """One field of each kind."""

    norm: Literal["s-norm", "as-norm"] | None = None
    """Normalisation."""
    top: Annotated[int | None, AtLeast(1), Metavar("N")] = None
    """Members kept."""
    share: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Share kept."""
    cohort: Path | None = None
    """Cohort."""
    by: Annotated[tuple[str, ...], Repeated()] = ()
    """Conditions."""
    speeds: tuple[float, ...] = (1.0,)
    """Factors."""
    exact: bool = False
    """Exactness."""
    free: Table = field(default_factory=dict)
    """Anything."""
    inner: Inner = Inner()
    """A table of its own."""


@dataclass(frozen=True, kw_only=True)
class Derived(Sample):
    """The same options with another default and one more."""

    share: Annotated[float, Above(0), AtMost(1)] = 0.5
    name: str = ""
    """Name."""


def test_a_value_is_converted_to_the_type_of_its_field():
    options = Sample(cohort="x/y", speeds=[1, 0.9], share=1)  # type: ignore[arg-type]
    assert (options.cohort, options.speeds, options.share) == (Path("x/y"), (1.0, 0.9), 1.0)
    assert type(options.share) is float and type(options.speeds[0]) is float


@dataclass(frozen=True, kw_only=True)
class Other(Options):
    """Options of another part."""

    size: Annotated[int, AtLeast(1)] = 8
    """Size."""


PART = Part({"inner": Inner, "other": Other}, default="inner")


@dataclass(frozen=True, kw_only=True)
class WithParts(Options):
    """Tables that hold some of the options of a part."""

    one: Annotated[Table, Part(Other)] = field(default_factory=dict)
    """A part that is always the same."""
    named: Annotated[Table, PART] = field(default_factory=dict)
    """One of two parts."""
    free: Annotated[Table, Part({"inner": Inner, "other": Other})] = field(default_factory=dict)
    """The same without a default."""


def test_the_table_of_a_part_keeps_the_entries_that_were_given_and_no_others():
    table = {"one": {}, "named": {"name": "other", "size": 3}, "free": {"rate": 1}}
    options = from_table(WithParts, table, "my.toml")
    assert to_table(options) == table
    assert PART.read(options.named, "named") == Other(size=3)
    assert PART.read({}, "named") == Inner()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"one": {"sice": 1}}, "unknown key 'one.sice'; did you mean 'size'"),
        ({"one": {"size": 0}}, "one.size = 0; it must be at least 1"),
        ({"named": {"size": 1}}, "unknown key 'named.size'"),
        (
            {"named": {"name": "othr"}},
            "named.name = 'othr'; it must be one of inner, other; did you mean 'other'",
        ),
        ({"free": {"sice": 1}}, "unknown key 'free.sice'; did you mean 'size'"),
    ],
)
def test_the_table_of_a_part_is_checked_by_the_part_that_it_names(table, message):
    with pytest.raises(RecipeError, match=message):
        from_table(WithParts, table, "my.toml")


def test_a_part_without_a_name_is_refused_when_it_is_needed():
    with pytest.raises(ModelError, match="free: name is missing; there are inner, other"):
        Part({"inner": Inner, "other": Other}).read({"size": 3}, "free", ModelError)


WRONG = {
    "a choice": ({"norm": "asnorm"}, ("norm", "s-norm, as-norm", "did you mean 'as-norm'")),
    "too small": ({"top": -1}, ("top = -1", "at least 1")),
    "a bound that is left out": ({"share": 0}, ("share = 0", "above 0")),
    "too large": ({"share": 1.5}, ("share = 1.5", "at most 1")),
    "not a number": ({"share": float("nan")}, ("share = nan", "finite")),
    "a number for a flag": ({"exact": 1}, ("exact", "bool", "1")),
    "a flag for a number": ({"top": True}, ("top", "int", "True")),
    "a word for a list": ({"by": "phone"}, ("by", "list", "phone")),
    "a number in a list of words": ({"by": ["phone", 3]}, ("by", "str", "3")),
    "a value for a table": ({"inner": 3}, ("inner", "table", "3")),
    "a bound inside": ({"inner": {"rate": -1}}, ("inner.rate", "at least 0")),
    "an unknown key": ({"nrm": "s-norm"}, ("'nrm'", "did you mean 'norm'")),
    "an unknown key inside": ({"inner": {"rat": 1}}, ("'inner.rat'", "did you mean 'rate'")),
    "an unknown key that is near to none": ({"zzz": 1}, ("'zzz'", "known keys: norm, top")),
}


@pytest.mark.parametrize(("table", "words"), WRONG.values(), ids=WRONG)
def test_a_table_with_a_fault_names_the_source_the_field_and_the_remedy(table, words):
    with pytest.raises(RecipeError) as caught:
        from_table(Sample, table, "my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert all(word in str(caught.value) for word in words), caught.value


def test_python_is_checked_as_a_table_is():
    with pytest.raises(UsageError, match="top = 0; it must be at least 1"):
        Sample(top=0)
    with pytest.raises(UsageError, match="norm"):
        Sample(norm="asnorm")  # type: ignore[arg-type]


def test_an_empty_value_of_a_table_is_none_where_none_is_possible():
    empty = from_table(Sample, {"norm": "", "top": 0, "cohort": ""}, "my.toml")
    assert empty == Sample()
    assert to_table(empty)["norm"] == "" and to_table(empty)["top"] == 0 and to_table(empty)["cohort"] == ""


@settings(max_examples=30)
@given(
    top=st.none() | st.integers(1, 10**6),
    share=st.floats(0, 1, exclude_min=True),
    norm=st.sampled_from([None, "s-norm", "as-norm"]),
    by=st.lists(st.text()),
    rate=st.floats(0, 1e6),
)
def test_a_table_gives_back_the_options_it_was_made_of(top, share, norm, by, rate):
    options = Sample(top=top, share=share, norm=norm, by=tuple(by), inner=Inner(rate=rate), cohort=Path("a"))
    assert from_table(Sample, to_table(options), "table") == options


def test_merging_changes_neither_table():
    table, change = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": 4}
    assert merge(table, change) == {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}
    assert (table, change) == ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": 4})


def test_options_are_taken_from_others_that_have_them_with_changes():
    derived = Derived(top=5, share=0.25, name="x")
    assert taken_from(Sample, derived, norm="as-norm") == Sample(top=5, share=0.25, norm="as-norm")


def test_help_and_defaults_of_every_field_are_those_of_the_declaration():
    rows = {name: (default, doc) for name, default, doc in described(Derived)}
    assert rows["inner.rate"] == ("0.1", "Rate of the step. (at least 0)")
    assert rows["norm"] == ("", "Normalisation. (one of s-norm, as-norm)")
    assert rows["share"] == ("0.5", "Share kept. (above 0, at most 1)")
    assert field_docs(Derived)["name"] == "Name."


def test_help_names_the_parts_and_the_entries_of_lists():
    @dataclass(frozen=True, kw_only=True)
    class Whole(Options):
        """A list of tables and a part."""

        many: tuple[Other, ...] = ()
        """Several."""
        part: Annotated[Table, Part({"inner": Inner, "other": Other, "same": Other})] = field(
            default_factory=dict
        )
        """Named."""

    assert list(described(Whole)) == [
        ("[[many]]", "", "Several."),
        ("[[many]] size", "8", "Size. (at least 1)"),
        ("part", "", "Named."),
        ("part.name", "", "One of inner (Options inside others), other (Options of another part), "
         "same (Options of another part)."),
        ("part.rate", "0.1", "inner: Rate of the step. (at least 0)"),
        ("part.size", "8", "other, same: Size. (at least 1)"),
    ]  # fmt: skip


def test_the_flags_of_a_command_are_the_fields(capsys):
    def verb(options: Derived = Derived()) -> Derived:
        return options

    words = ["--norm", "as-norm", "--by", "a", "--by", "b", "--exact", "--rate", "2", "--top", "5"]
    assert parse(verb, words, "farvox verb") == Derived(
        norm="as-norm", by=("a", "b"), exact=True, inner=Inner(rate=2.0), top=5
    )
    assert parse(verb, [], "farvox verb") == Derived()
    with pytest.raises(UsageError, match="top"):
        parse(verb, ["--top", "0"], "farvox verb")
    with pytest.raises(SystemExit):
        parse(verb, ["--help"], "farvox verb")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--top N Members kept. (at least 1)" in text and "{s-norm,as-norm}" in text


def test_the_nearest_word_is_named_and_only_where_one_is_near():
    assert nearest("cosnie", ["cosine", "plda"]) == "; did you mean 'cosine'?"
    assert nearest("zzz", ["cosine", "plda"]) == ""
