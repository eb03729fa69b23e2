"""The flags of a command: tyro, taught to read options dataclasses and verbs."""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from farvox.errors import UsageError
from farvox.options import Kind, Options, default_of, field_docs, kind_of, nearest, with_limits
from farvox.progress import to_stderr

registry = ConstructorRegistry()
OWN_OPTIONS = ("--help", "--tyro-print-completion", "--tyro-write-completion")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A field of an options dataclass, or a parameter of a verb; ``spec`` is what tyro makes an option of."""

    name: str
    kind: Kind
    is_positional: bool
    metavar: str
    spec: StructFieldSpec


def _flags_of(target: Callable[..., Any]) -> Iterator[Flag]:
    """The fields of an options dataclass, or the parameters of a verb, with what is said of them there."""
    hints = typing.get_type_hints(target, include_extras=True)
    if isinstance(target, type):
        docs = field_docs(target)
        for field in dataclasses.fields(target):
            yield _flag(field.name, hints[field.name], default_of(field), docs.get(field.name, ""))
        return
    docs = dict(re.findall(r"^    (\w+): ((?:.|\n {8})*)", inspect.getdoc(target) or "", re.MULTILINE))
    for name, parameter in inspect.signature(target).parameters.items():
        yield _flag(name, hints[name], parameter.default, docs.get(name, ""))


def _flag(name: str, hint: Any, default: Any, doc: str) -> Flag:
    """A flag whose help is one paragraph, and says the default only where that is a value."""
    kind = kind_of(hint)
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    metavar = next((each.metavar for each in extras if getattr(each, "metavar", None)), kind.metavar)
    if kind.optional and not metavar:  # tyro would write {None}|INT
        choices = ",".join(map(str, kind.choices))
        metavar = f"{{{choices}}}" if choices else kind.type.__name__.upper()
    repeated = kind.repeated or tyro.conf.UseAppendAction in extras
    nothing = "(repeatable)" if repeated else ""
    config = tyro.conf.arg(
        metavar=metavar or None,
        help=with_limits(" ".join(doc.split()), kind.bounds),
        help_behavior_hint=lambda text: (
            nothing if text in ("", "''", "None", "False") else f"(default: {text})"
        ),
    )
    if repeated:
        hint = Annotated[hint, tyro.conf.UseAppendAction]
    if default in (dataclasses.MISSING, inspect.Parameter.empty):
        default = tyro.MISSING_NONPROP
    annotation: Any = Annotated[hint, config]
    spec = StructFieldSpec(name, annotation, default)
    return Flag(name, kind, tyro.conf.Positional in extras, metavar, spec)


def _options_of(target: Callable[..., Any]) -> Iterator[str]:
    """The options of a verb or of an options dataclass, also of the dataclasses inside, as they are typed."""
    for flag in _flags_of(target):
        if flag.kind.is_table:
            yield from _options_of(flag.kind.type)
        elif not flag.is_positional:
            yield f"--{flag.name}".replace("_", "-")


@registry.struct_rule
def _fields(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The flags of an options dataclass or of a verb, with their metavars, choices and bounds."""
    if inspect.isfunction(info.type) or (isinstance(info.type, type) and issubclass(info.type, Options)):
        # a verb is called when all its words are read
        make = partial(partial, info.type) if inspect.isfunction(info.type) else info.type
        return StructConstructorSpec(make, tuple(flag.spec for flag in _flags_of(info.type)))
    return None


def parse(verb: Callable[..., Any], words: Sequence[str], name: str, example: str = "") -> Any:
    """Call a verb with the words of a command line.

    Args:
        verb: the function.
        words: those after the verb.
        name: what its help calls it.
        example: words after ``name`` that its help shows.

    Raises:
        UsageError: an option that the verb does not have.
    """
    known = list(_options_of(verb))
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in (*known, *OWN_OPTIONS):
            places = " ".join(flag.metavar for flag in _flags_of(verb) if flag.is_positional)
            raise wrong_usage(f"unknown option '{option}'{nearest(option, known)}", name, places)
    about = (inspect.getdoc(verb) or "").partition("\n\nArgs:")[0]
    paragraphs = [" ".join(paragraph.split()) for paragraph in about.split("\n\n")]
    said = io.StringIO()  # the words that are wrong, as they were typed
    try:
        with redirect_stderr(said):
            call: Any = tyro.cli(
                verb,
                args=list(words),
                prog=name,
                description="\n\n".join([*paragraphs, f"example: {name} {example}".rstrip()]),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
                registry=registry,
            )
    except SystemExit as end:
        if end.code:
            to_stderr(said.getvalue().rstrip("\n"))
        raise
    return call()


def wrong_usage(fault: str, name: str, usage: str) -> UsageError:
    """The error of a command line: three lines, the last of which says where more is to be read."""
    return UsageError(f"{fault}\nusage: {name} {usage}\n'{name} --help' explains its options")
