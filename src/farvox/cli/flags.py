"""The flags of a command: tyro, taught to read options dataclasses and verbs."""

from __future__ import annotations

import dataclasses
import inspect
import io
import itertools
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from farvox.atomic import url_of
from farvox.audio.remote import trusted
from farvox.errors import FarvoxError, UsageError
from farvox.options import Kind, Options, default_of, field_docs, kind_of, nearest, with_limits
from farvox.progress import to_stderr

registry = ConstructorRegistry()
typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())
"""The words of the verb that runs, and their verb first."""
ShardFlag = Annotated[str | None, tyro.conf.arg(metavar="I/N")]
FROM_STORE, TO_STORE = "may lie in a store", "may go to a store"
"""Of a parameter that takes URLs of folders, see `farvox.datadir.stores`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """The machines that work."""

    engine: Literal["local", "ray"] = "local"
    """Of the work that --shard can divide: this machine, or those of a Ray cluster (of RAY_ADDRESS, else the
    one that this machine is of, else one of this machine alone); the result is the same."""


OWN_OPTIONS = ("--help", "--tyro-print-completion", "--tyro-write-completion")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A field of an options dataclass, or a parameter of a verb; ``spec`` is what tyro makes an option of."""

    name: str
    kind: Kind
    is_positional: bool
    metavar: str
    spec: StructFieldSpec
    store: str = ""

    @property
    def is_required(self) -> bool:
        """The command line must have it."""
        return self.spec.default is tyro.MISSING_NONPROP and not self.kind.is_table

    def fault_of(self, words: Sequence[str]) -> str:
        """Say why the words cannot be the values of this option; "" where they can, or tyro has to look."""
        kind = self.kind
        types = typing.get_args(kind.type) if typing.get_origin(kind.type) is tuple else (kind.type,)
        if kind.type is bool or types[-1] is Ellipsis:
            return ""
        types = tuple(kind_of(each).type for each in types)
        values = list(itertools.takewhile(lambda word: not word.startswith("--"), words[: len(types)]))
        if len(values) < len(types):
            many = "a value" if len(types) == 1 else f"{len(types)} values"
            return f"needs {many}{f': {self.metavar}' if self.metavar else ''}"
        if kind.choices and values[0] not in map(str, kind.choices):
            return f"must be one of {', '.join(map(str, kind.choices))}, not {values[0]!r}"
        for each, value in zip(types, values, strict=True):
            try:
                _ = each(value) if each in (int, float) else value
            except ValueError:
                return f"must be a {'whole ' if each is int else ''}number, not {value!r}"
        return ""


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
    store = next((each for each in (FROM_STORE, TO_STORE) if each in extras), "")
    return Flag(name, kind, tyro.conf.Positional in extras, metavar, spec, store)


def _options_of(target: Callable[..., Any]) -> Iterator[Flag]:
    """The options of a verb or of an options dataclass, also of the dataclasses inside."""
    for flag in _flags_of(target):
        if flag.kind.is_table:
            yield from _options_of(flag.kind.type)
        elif not flag.is_positional:
            yield flag


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
        UsageError: an option that the verb does not have, a value that is wrong or missing; in three lines.
    """
    known = {f"--{flag.name}".replace("_", "-"): flag for flag in _options_of(verb)}
    places = [flag.metavar for flag in _flags_of(verb) if flag.is_positional]
    needed = [
        f"--{flag.name} {flag.metavar or flag.name.upper()}" for flag in known.values() if flag.is_required
    ]
    usage = " ".join([*places, *needed])
    typed.set((name.removeprefix("farvox "), *words))
    for position, word in enumerate(words):
        option, is_one, value = word.partition("=")
        option = option.replace("_", "-")
        if option in known:
            if fault := known[option].fault_of([value] if is_one else words[position + 1 :]):
                raise wrong_usage(f"{option} {fault}", name, usage)
        elif option.startswith("--") and option not in OWN_OPTIONS:
            raise wrong_usage(f"unknown option '{option}'{nearest(option, known)}", name, usage)
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
            raise wrong_usage(_said_in(said.getvalue(), [*places, *needed]), name, usage) from None
        raise
    with ExitStack() as stack:
        return _with_folders(verb, call, lambda fault: wrong_usage(fault, name, usage), stack)()


def _with_folders(
    verb: Callable[..., Any],
    call: partial[Any],
    wrong: Callable[[str], UsageError],
    stack: ExitStack,
) -> partial[Any]:
    """The call of a verb with folders of this machine in the place of those in stores, if it takes such."""
    flags, there = {flag.name: flag for flag in _flags_of(verb)}, {}
    for name, value in call.keywords.items():
        urls = {path: url for path in _paths_in(value) if (url := url_of(path))}
        if not urls:
            continue
        from farvox.datadir import stores

        folders = {}
        for path, url in urls.items():
            if not flags[name].store:
                raise wrong(f"{url}: this command takes no URL there; copy it, or name a file or folder")
            if flags[name].store == TO_STORE and call.keywords.get("shard"):
                raise wrong(
                    f"{url}: shards need a folder that all share; give one as OUT, or leave out --shard"
                )
            if flags[name].store == TO_STORE:
                folders[path] = stores.staged(url)
            else:
                stack.enter_context(trusted(url))
                folders[path] = stores.fetched(url)
                stack.enter_context(_named(folders[path], url))
        is_one = isinstance(value, Path)
        there[name] = folders[value] if is_one else tuple(folders.get(path, path) for path in value)
    return partial(call, **there)


@contextmanager
def _named(folder: Path, url: str) -> Iterator[None]:
    """Let errors name the URL that a folder stands for."""
    try:
        yield
    except FarvoxError as error:
        error.args = (str(error).replace(str(folder), url),)
        raise


def _paths_in(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        yield from itertools.chain(*map(_paths_in, value))
    elif isinstance(value, Options):
        yield from itertools.chain(*map(_paths_in, vars(value).values()))


@contextmanager
def work_of(out: Path, shard: str | None, place: EngineOptions) -> Iterator[None]:
    """The block of a verb of which ``--shard I/N`` does a part, on the machines of ``--engine``."""
    from farvox.ray_engine import on_ray
    from farvox.sharding import one_shard

    words = list(typed.get())
    for position, word in enumerate(words):
        if word.partition("=")[0] == "--shard":
            del words[position : position + (1 if "=" in word else 2)]
            break
    with (
        on_ray() if place.engine == "ray" else nullcontext(),
        one_shard(out, shard, command=words, note=to_stderr),
    ):
        yield


def _said_in(box: str, needed: Sequence[str]) -> str:
    """The fault that a box of tyro's tells, in one line; of words that are missing, their names."""
    text = (re.split(r"[─-]{9,}\W*?\n", box)[1:2] or [box])[0]
    lines = [line.strip(" │") for line in text.splitlines()]
    starts = {line.split(" {")[0] for line in lines}  # before the values of a choice
    if missing := [each for each in needed if each in lines or each.split()[0] in starts]:
        return f"missing: {', '.join(missing)}"
    return " ".join(" ".join(lines).split()).replace("Unrecognized options:", "unknown words:")


def wrong_usage(fault: str, name: str, usage: str) -> UsageError:
    """The error of a command line: three lines, the last of which says where more is to be read."""
    return UsageError(f"{fault}\n{f'usage: {name} {usage}'.rstrip()}\n'{name} --help' explains its options")
