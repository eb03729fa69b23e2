"""The source tree as the rules of the house see it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/farvox"


@dataclass(frozen=True)
class Source:
    """One module: its dotted name without the leading ``farvox.``, its text, its syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The package or top-level module it belongs to: ``io.audio`` is of ``io``."""
        return self.name.split(".")[0]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of everything imported anywhere in it, inside functions too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: relative imports hide the layer"
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def read_sources() -> list[Source]:
    sources = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        sources.append(Source(name, text, ast.parse(text)))
    return sources


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """Every module of the package."""
    return read_sources()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
