"""The table of pretrained models, ``models.toml`` beside this file: what there is, and where to get it."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from farvox.cache import cache_path
from farvox.errors import ModelError
from farvox.zoo.card import Card

DEFAULT_MODEL = "campplus-zh-en"
"""The model of ``farvox verify`` and of its kin where none is named."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a checkpoint can be had.

    Attributes:
        kind: a wheel on the package index, or a repository of a hub.
        name: requirement of the wheel, or OWNER/NAME of the repository.
        file: path of the checkpoint in there.
        revision: branch, tag or commit of the repository.
    """

    kind: Literal["wheel", "huggingface", "modelscope"]
    name: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        at = "" if self.kind == "wheel" else f"@{self.revision}"
        return f"{self.kind}:{self.name}{at}:{self.file}"


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A pretrained model that can be pulled.

    Attributes:
        name: what it is called everywhere.
        arch: layout of its checkpoint, a key of `farvox.zoo.layouts.LAYOUTS`.
        sha256: of the checkpoint.
        bytes: size of the checkpoint.
        sources: where it is, in the order in which they are tried.
        card: what is known of it.
    """

    name: str
    arch: str
    sha256: str
    bytes: int
    sources: tuple[Source, ...]
    card: Card

    @property
    def folder(self) -> Path:
        """Where it lies once pulled; another checkpoint of the same name would lie elsewhere."""
        return cache_path() / "models" / f"{self.name}-{self.sha256[:12]}"


@cache
def zoo_models() -> dict[str, ZooModel]:
    """All models of the zoo by name."""
    tables = tomllib.loads(files("farvox.zoo").joinpath("models.toml").read_text(encoding="utf-8"))
    return {
        name: ZooModel(
            name, table["arch"], table["sha256"], table["bytes"],
            tuple(Source(**source) for source in table["sources"]),
            Card.from_dict({"name": name, **table["card"]}, f"models.toml: {name}"),
        )
        for name, table in tables.items()
    }  # fmt: skip


def zoo_model(name: str) -> ZooModel:
    """A model of the zoo.

    Raises:
        ModelError: there is none of this name; the nearest ones are given.
    """
    if name not in zoo_models():
        near = difflib.get_close_matches(name, zoo_models(), n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ModelError(f"no model '{name}' in the zoo{hint}; there are {', '.join(zoo_models())}")
    return zoo_models()[name]
