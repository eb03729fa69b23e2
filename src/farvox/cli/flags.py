"""The flags of a command: tyro, taught to read options dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from farvox.options import Options, default_of, field_docs, kinds, with_limits

registry = ConstructorRegistry()


@registry.struct_rule
def _options(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The fields of an options dataclass as flags with their metavars, choices and bounds."""
    cls = info.type
    if not (isinstance(cls, type) and issubclass(cls, Options)):
        return None
    docs, hints = field_docs(cls), get_type_hints(cls)
    fields = []
    for field in dataclasses.fields(cls):
        kind = kinds(cls)[field.name]
        help_text = with_limits(docs.get(field.name, ""), kind.bounds)
        hint: Any = Annotated[hints[field.name], tyro.conf.arg(metavar=kind.metavar or None, help=help_text)]
        if kind.repeated:
            hint = Annotated[hint, tyro.conf.UseAppendAction]
        fields.append(StructFieldSpec(field.name, hint, default_of(field)))
    return StructConstructorSpec(instantiate=cls, fields=tuple(fields))


def parse(verb: Callable[..., Any], words: Sequence[str], name: str) -> Any:
    """Call a verb with the words of a command line; ``name`` is what its help calls it."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(verb, args=list(words), prog=name, config=config, registry=registry)
