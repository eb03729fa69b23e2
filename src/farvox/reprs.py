"""Reprs of one line, for a notebook or a debugger."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import PurePath
from typing import Any

LONGEST_TEXT, LONGEST_PART, MOST_ITEMS = 60, 160, 4


def short_repr(self: Any) -> str:
    """``Name(field=value, ...)`` of a dataclass, without fields at their defaults; see `short`.

    A class takes it by ``__repr__ = short_repr``.
    """
    parts = [
        f"{field.name}={short(value)}"
        for field in fields(self)
        if field.repr and not _is_default(field, value := getattr(self, field.name))
    ]
    return f"{type(self).__name__}({', '.join(parts)})"


def short(value: object) -> str:
    """The repr of a value, or ``<its type and size>`` where that is long or has several lines."""
    name, shape = type(value).__name__, getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"<{name} {list(shape)}>"
    if isinstance(value, float):
        text = repr(float(value))
        return text if len(text) <= 8 else f"{value:.6g}"
    if isinstance(value, str | PurePath):
        text = str(value)
        return repr(text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}...")
    size = len(value) if isinstance(value, list | tuple | set | frozenset | dict) else None
    text = "" if size is not None and size > MOST_ITEMS else repr(value)
    if text and len(text) <= (LONGEST_PART if size is None else LONGEST_TEXT) and "\n" not in text:
        return text
    return f"<{name}>" if size is None else f"<{name} of {size}>"


def _is_default(field: Field[Any], value: object) -> bool:
    default = field.default
    if default is MISSING and isinstance(field.default_factory, type):
        default = field.default_factory()
    return type(value) is type(default) and bool(value == default)
