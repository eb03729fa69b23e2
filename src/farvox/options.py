"""Options: one frozen dataclass a stage, declared once.

The dataclass of a stage is the flags of its command, the keys of its table in a recipe and its arguments in
Python. A field's annotation holds everything that is known of its values: the type, the choices (`Literal`)
and the limits (`AtLeast`, `Above`, `AtMost`, `Below`); the string below the field is its help.

    @dataclass(frozen=True, kw_only=True)
    class ScoreOptions(Options):
        norm: Literal["s-norm", "as-norm"] | None = None
        \"\"\"Score normalisation against a cohort; none by default.\"\"\"
        top: Annotated[int, AtLeast(1)] = 300
        \"\"\"Cohort members that AS-norm keeps for a side.\"\"\"
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import operator
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from farvox.errors import FarvoxError, RecipeError, UsageError
from farvox.reprs import short_repr

Table = dict[str, Any]
"""A table of a TOML file, or any nesting of such tables."""


@dataclass(frozen=True)
class Bound:
    """A limit of a number, written into the annotation of its field: ``AtLeast(1)``."""

    words: str
    holds: Callable[[float, float], bool]
    value: float

    def __contains__(self, number: float) -> bool:
        return self.holds(number, self.value)

    def __str__(self) -> str:
        return f"{self.words} {self.value:g}"


LARGEST = 1e30
"""Size of an option that is no whole number; float32 ends at 3.4e38."""
AtLeast, AtMost = partial(Bound, "at least", operator.ge), partial(Bound, "at most", operator.le)
Above, Below = partial(Bound, "above", operator.gt), partial(Bound, "below", operator.lt)


@dataclass(frozen=True)
class Metavar:
    """The word that stands for a field's value in the help of its command."""

    name: str


@dataclass(frozen=True)
class Repeated:
    """A list that grows by each use of its flag, instead of taking all the words that follow one."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options of every stage: every value is converted and checked by its field's annotation.

    A string is taken for a path, a list for a tuple and a whole number for a float where the annotation asks
    for one.

    Raises:
        UsageError: a value is of the wrong type, none of the choices, not finite, or out of bounds; names
            the field.
    """

    def __init_subclass__(cls) -> None:
        type.__setattr__(cls, "__repr__", short_repr)  # which the dataclass then leaves

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            object.__setattr__(self, name, _checked(kind, getattr(self, name), name))

    @classmethod
    def translate_older(cls, table: Mapping[str, Any]) -> Mapping[str, Any]:
        """A table that an older farvox may have written, in the keys and values of today."""
        return table


SomeOptions = TypeVar("SomeOptions", bound=Options)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Kind:
    """The annotation of a field, taken apart; the type is without `None` and without annotations."""

    type: Any
    optional: bool = False
    bounds: tuple[Bound, ...] = ()
    metavar: str = ""
    repeated: bool = False
    part: Part[Any] | None = None

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a `Literal`; nothing for other types."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def is_table(self) -> bool:
        """The value is an options dataclass of its own."""
        return isinstance(self.type, type) and issubclass(self.type, Options)

    @property
    def _none_in_toml(self) -> str | int | None:
        """The value that means `None` in a TOML file, which has none; `None` where the key is left out."""
        if self.type not in (int, float):
            return ""
        return 0 if any(0 not in bound for bound in self.bounds) else None


def _once_a_class(function: Callable[[type], Item]) -> Callable[[type], Item]:
    """`cache` with a type that lets classes of options in."""
    return cache(function)


@_once_a_class
def kinds(cls: type) -> dict[str, Kind]:
    """The kind of every field of an options dataclass, in the order of the fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: kind_of(hints[field.name]) for field in dataclasses.fields(cls)}


@_once_a_class
def field_docs(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass, also of those that it inherits, as one line."""
    docs: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                docs[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return docs


def from_table(
    cls: type[SomeOptions], table: Mapping[str, Any], source: str, fault: type[FarvoxError] = RecipeError
) -> SomeOptions:
    """The options that a table of a recipe holds; fields that it leaves out have their defaults.

    Raises:
        FarvoxError: of type ``fault``, beginning with ``source``: an unknown key, with the nearest known one,
            or a value that does not fit.
    """
    try:
        return _from_table(cls, table)
    except UsageError as error:
        raise fault(f"{source}: {error}") from None


@dataclass(frozen=True)
class Part(Generic[SomeOptions]):
    """The options of a part of a system: a network, a front-end; or of several, one of which a table names.

    A field of type `Table` that is annotated with a part is checked by its options, but stays a table of the
    entries that were given: a model that training starts from brings the others along.

    Attributes:
        choices: the options of each part by its name; or those of the only part.
        key: entry of a table that holds the name.
        default: the name in a table without that entry; "": there is none.
    """

    choices: Mapping[str, type[SomeOptions]] | type[SomeOptions]
    key: str = "name"
    default: str = ""

    def read(
        self, table: Mapping[str, Any], source: str, fault: type[FarvoxError] = RecipeError
    ) -> SomeOptions:
        """The options that a table describes, whole; arguments and errors as of `from_table`."""
        try:
            classes, rest = self._chosen(table, "")
            if isinstance(self.choices, Mapping) and len(classes) > 1:
                raise UsageError(f"{self.key} is missing; there are {', '.join(self.choices)}")
            return _from_table(classes[0], rest)
        except UsageError as error:
            raise fault(f"{source}: {error}") from None

    def check(self, table: Mapping[str, Any], name: str) -> None:
        """Check every entry for itself; without a name, only that each is known to one of the parts.

        Raises:
            UsageError: an entry is unknown or does not fit.
        """
        classes, rest = self._chosen(table, name)
        if len(classes) == 1:
            _values(kinds(classes[0]), rest, name)
        else:
            _refuse_unknown(dict.fromkeys(field for each in classes for field in kinds(each)), rest, name)

    def _chosen(
        self, table: Mapping[str, Any], name: str
    ) -> tuple[Sequence[type[SomeOptions]], Mapping[str, Any]]:
        """The options that a table may be of, and its other entries."""
        if not isinstance(self.choices, Mapping):
            return [self.choices], table
        chosen = table.get(self.key, self.default)
        if chosen and chosen not in self.choices:
            where = f"{name}.{self.key}" if name else self.key
            raise not_a_choice(where, chosen, self.choices)
        rest = {key: value for key, value in table.items() if key != self.key}
        return ([self.choices[chosen]] if chosen else list(self.choices.values())), rest


def to_table(options: Options) -> Table:
    """The options as nested TOML tables that `from_table` reads back to equal options."""
    table = {}
    for name, kind in kinds(type(options)).items():
        value = getattr(options, name)
        if (plain := kind._none_in_toml if value is None else _plain(value)) is not None:
            table[name] = plain
    return table


def merge(table: Mapping[str, Any], change: Mapping[str, Any]) -> Table:
    """A copy of ``table`` in which the leaves of ``change`` have taken the place of its own."""
    merged = dict(table)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def differences(before: Table, now: Table, free: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The entries that two nested tables have differently, by dotted name, as pairs; None where one has none.

    Those of ``free`` are left out; a table's name with a dot stands for all its fields.
    """

    def flat(table: Table, prefix: str = "") -> Table:
        found: Table = {}
        for key, value in table.items():
            name = f"{prefix}{key}"
            found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        return found

    one, other = flat(before), flat(now)
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
        and not any(key == each or (each.endswith(".") and key.startswith(each)) for each in free)
    }


def taken_from(cls: type[SomeOptions], other: Options, **changes: Any) -> SomeOptions:
    """The options ``cls`` with the values that ``other`` has under the same names, but for the changes.

    Fields that ``other`` lacks have their defaults.
    """
    return cls(**{name: getattr(other, name) for name in kinds(cls) if name in kinds(type(other))} | changes)


def described(cls: type[Options], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted name, default and help of every field, also of the dataclasses and parts inside.

    An entry of a list of tables is called ``[[list]] entry``. A field of several parts comes once for each
    default or help that it has, and its help begins with the names of those parts.
    """
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        kind, name, doc = kinds(cls)[field.name], prefix + field.name, docs.get(field.name, "")
        entry = kind_of(typing.get_args(kind.type)[0]) if typing.get_origin(kind.type) is tuple else kind
        if kind.is_table:
            yield from described(kind.type, f"{name}.")
        elif entry.is_table:
            yield f"[[{name}]]", "", doc
            yield from described(entry.type, f"[[{name}]] ")
        elif kind.part:
            yield name, "", doc
            yield from _described_part(kind.part, name)
        else:
            choices = [str(each) for each in kind.choices]
            limits = [] if all(each in doc for each in choices) else [f"one of {', '.join(choices)}"]
            default = default_of(field)
            plain = "" if default in (None, dataclasses.MISSING) else _plain(default)
            shown = str(plain).lower() if isinstance(plain, bool) else str(plain)
            yield name, shown, with_limits(doc, limits, kind.bounds)


def _described_part(part: Part[Any], name: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(part.choices, Mapping):
        yield from described(part.choices, f"{name}.")
        return
    each = [f"{choice} ({summary_of(cls)})" for choice, cls in part.choices.items()]
    yield f"{name}.{part.key}", part.default, f"One of {', '.join(each)}."
    parts_with: dict[tuple[str, str, str], list[str]] = {}
    for choice, cls in part.choices.items():
        for row in described(cls, f"{name}."):
            parts_with.setdefault(row, []).append(choice)
    order = list(dict.fromkeys(field for field, _, _ in parts_with))
    for row, choices in sorted(parts_with.items(), key=lambda item: order.index(item[0][0])):
        of = "" if len(choices) == len(part.choices) else f"{', '.join(choices)}: "
        yield row[0], row[1], of + row[2]


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field of a dataclass, or `dataclasses.MISSING`."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def with_limits(doc: str, *limits: Iterable[object]) -> str:
    """A field's help, followed by its limits in brackets."""
    words = ", ".join(str(limit) for group in limits for limit in group)
    return f"{doc} ({words})" if words else doc


def summary_of(cls: type) -> str:
    """The first line of a class's docstring, without its full stop."""
    return (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the known word nearest to ``word``, or "" where none is near."""
    words = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(word.casefold(), words, n=1)
    return f"; did you mean '{words[near[0]]}'?" if near else ""


def kind_of(hint: Any) -> Kind:
    """Take an annotation apart."""
    bounds: tuple[Bound, ...] = ()
    metavar, repeated, part = "", False, None
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        bounds = tuple(each for each in extras if isinstance(each, Bound))
        metavar = next((each.name for each in extras if isinstance(each, Metavar)), "")
        repeated = any(isinstance(each, Repeated) for each in extras)
        part = next((each for each in extras if isinstance(each, Part)), None)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
        kind = kind_of(inner)
        return Kind(kind.type, True, bounds + kind.bounds, metavar or kind.metavar, repeated or kind.repeated)
    return Kind(hint, False, bounds, metavar, repeated, part)


def _checked(kind: Kind, value: Any, name: str) -> Any:
    """A value as its field's type; a `UsageError` that names the field where it does not fit."""
    if kind.optional and value is None:
        return None
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise UsageError(f"{name} must be a number of 64 bits")
    origin, inside = typing.get_origin(kind.type), typing.get_args(kind.type)
    if kind.choices:
        if value not in kind.choices:
            raise not_a_choice(name, value, kind.choices)
    elif origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{name} must be a list, not {value!r}")
        if inside[-1] is not Ellipsis and len(inside) != len(value):
            raise UsageError(f"{name} must have {len(inside)} entries, not {len(value)}")
        inner = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        pairs = zip(inner, value, strict=True)
        value = tuple(_checked_entry(kind_of(each), item, name) for each, item in pairs)
    elif kind.is_table or origin is dict:
        if kind.is_table and isinstance(value, Mapping):
            value = _from_table(kind.type, value, name)
        elif not isinstance(value, origin or kind.type):
            raise UsageError(f"{name} must be a table, not {value!r}")
        elif kind.part:
            kind.part.check(value, name)
    elif kind.type is Path and isinstance(value, str):
        value = Path(value)
    elif kind.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif kind.type is not Any and (
        not isinstance(value, kind.type) or (isinstance(value, bool) and kind.type is not bool)
    ):
        raise UsageError(f"{name} must be of type {kind.type.__name__}, not {value!r:.200}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} = {value}; it must be a finite number")
    if isinstance(value, float) and abs(value) > LARGEST:
        raise UsageError(f"{name} = {value}; it must be a number from -{LARGEST:g} to {LARGEST:g}")
    for bound in kind.bounds:
        if value not in bound:
            raise UsageError(f"{name} = {value}; it must be {bound}")
    return value


def _checked_entry(kind: Kind, value: Any, name: str) -> Any:
    """An entry of a list; a fault in one of several tables is named by the entry ``name`` of that table."""
    if not (kind.is_table and isinstance(value, Mapping)):
        return _checked(kind, value, name)
    try:
        return _from_table(kind.type, value)
    except UsageError as error:
        entry = f"[[{name}]] {value.get('name', '')}".rstrip()
        raise UsageError(f"{entry}: {error}") from None


def _from_table(cls: type[SomeOptions], table: Mapping[str, Any], name: str = "") -> SomeOptions:
    """The options that a table holds; ``name`` is its own, for the messages."""
    values = _values(kinds(cls), cls.translate_older(table), name)
    for field in dataclasses.fields(cls):
        if field.name not in values and default_of(field) is dataclasses.MISSING:
            raise UsageError(f"{name}.{field.name} is missing" if name else f"{field.name} is missing")
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{name}: {error}" if name else str(error)) from None


def _values(known: Mapping[str, Kind], table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entries of a table, checked."""
    _refuse_unknown(known, table, name)
    values = {}
    for key, value in table.items():
        is_none = known[key].optional and type(value) in (str, int) and value == known[key]._none_in_toml
        values[key] = None if is_none else _checked(known[key], value, f"{name}.{key}" if name else key)
    return values


def _refuse_unknown(known: Collection[str], table: Iterable[str], name: str) -> None:
    for key in table:
        if key not in known:
            hint = nearest(key, known) or f"; known keys: {', '.join(known)}"
            raise UsageError(f"unknown key '{name}.{key}'{hint}" if name else f"unknown key '{key}'{hint}")


def not_a_choice(name: str, value: object, choices: Iterable[object]) -> UsageError:
    """The error of an option whose value is none of the choices."""
    words = [str(choice) for choice in choices]
    return UsageError(f"{name} = {value!r}; it must be one of {', '.join(words)}{nearest(str(value), words)}")


def _plain(value: Any) -> Any:
    """A value as TOML has it."""
    if isinstance(value, Options):
        return to_table(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
