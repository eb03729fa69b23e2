"""Count what shows whether the code stays readable: ``python tests/project/count.py [SRC] [--list]``.

SRC is a source tree (default: the ``src`` of this checkout). Every figure has one definition:

- lines: of ``*.py`` below SRC, blank ones and comments included. Short files have fewer than 60.
- functions: every ``def``, methods and nested functions included.
- private functions: their name begins with one underscore (``__init__`` and the like are not private).
- called once: the name of a private function stands exactly twice in its own file, as a word: where it is
  defined and where it is used. A second count takes the syntax tree instead of words: the name is read
  exactly once, as a variable or as an attribute. The share is of all functions, by the larger count.
- public functions: their name begins with no underscore; methods and nested functions included.
- summaries: first lines of docstrings of functions, methods and classes. A question is one that begins with
  What, Where, How, Which, Who or Whether. Docstrings of modules are counted apart.
- import circles: modules that import one another, directly or through others. Imports inside functions count,
  those under ``if TYPE_CHECKING`` do not. Importing a name from a package is importing the package.
- one name for two things: classes, and names of types (``Floats = NDArray[...]``) at the top of a module,
  that are called alike in two modules and are defined differently. A leading underscore is not part of the
  name. Two type names of one definition are one thing; two classes never are.
- named like an import: a module whose last name is that of a package from elsewhere that it imports.
- format skips: ``fmt: skip`` and ``fmt: off``.
- test lines: of ``*.py`` in ``tests`` beside SRC, for each line of SRC.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SHORT = 60
QUESTION = re.compile(r"(?:What|Where|How|Which|Who|Whether)\b")
TYPE_NAME = re.compile(r"_?[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*$")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package below the top one, or the module's own name."""
        return ".".join(self.name.split(".")[1:2]) or self.name

    @property
    def lines(self) -> int:
        """Number of lines."""
        return len(self.text.splitlines())

    @cached_property
    def functions(self) -> list[Function]:
        """Every function, method and nested function."""
        return [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)]

    def called_once(self, *, by_words: bool) -> list[Function]:
        """Private functions that their own file uses exactly once."""
        if by_words:
            uses = Counter(re.findall(r"\w+", self.text))
            once = 2
        else:
            nodes = list(ast.walk(self.tree))
            uses = Counter(n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
            uses += Counter(n.attr for n in nodes if isinstance(n, ast.Attribute))
            once = 1
        return [node for node in self.functions if is_private(node.name) and uses[node.name] == once]

    def summaries(self) -> Iterator[tuple[int, str]]:
        """Line and first docstring line of every documented function, method and class."""
        for node in ast.walk(self.tree):
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and (text := ast.get_docstring(node)):
                yield node.lineno, text.splitlines()[0]

    def imports(self) -> Iterator[str]:
        """Dotted names of what is imported, inside functions too, but not for type checking only."""
        nodes: list[ast.AST] = [self.tree]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                nodes += node.orelse
                continue
            nodes += ast.iter_child_nodes(node)
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def type_names(self) -> Iterator[tuple[str, str]]:
        """Name and definition of every class and type name at the top of the module."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef):
                yield node.name.lstrip("_"), f"class of {self.name}"
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and TYPE_NAME.match(target.id):
                    yield target.id.lstrip("_"), ast.unparse(node.value)


@dataclass(frozen=True)
class Counts:
    """All figures of a source tree."""

    modules: list[Module]
    test_lines: int

    @property
    def files(self) -> int:
        """Number of source files."""
        return len(self.modules)

    @property
    def short_files(self) -> list[Module]:
        """Files of fewer than 60 lines."""
        return [module for module in self.modules if module.lines < SHORT]

    @property
    def lines(self) -> int:
        """Lines of all files."""
        return sum(module.lines for module in self.modules)

    @property
    def functions(self) -> int:
        """Number of functions, methods and nested functions."""
        return sum(len(module.functions) for module in self.modules)

    @property
    def public_functions(self) -> int:
        """Number of those whose name begins with no underscore."""
        names = [function.name for module in self.modules for function in module.functions]
        return sum(not name.startswith("_") for name in names)

    @property
    def private_functions(self) -> int:
        """Number of those whose name begins with one underscore."""
        return sum(is_private(function.name) for module in self.modules for function in module.functions)

    def called_once(self, *, by_words: bool) -> int:
        """Number of private functions used once in their own file."""
        return sum(len(module.called_once(by_words=by_words)) for module in self.modules)

    @property
    def share_called_once(self) -> float:
        """Their share of all functions, by the larger of the two counts."""
        return max(self.called_once(by_words=by_words) for by_words in (True, False)) / self.functions

    @property
    def summaries(self) -> int:
        """Number of documented functions, methods and classes."""
        return sum(1 for module in self.modules for _ in module.summaries())

    @property
    def questions(self) -> list[tuple[str, str]]:
        """Place and text of every summary that begins as a question does."""
        return [
            (f"{module.path}:{line}", summary)
            for module in self.modules
            for line, summary in module.summaries()
            if QUESTION.match(summary)
        ]

    @property
    def module_questions(self) -> list[tuple[str, str]]:
        """The same of the docstrings of modules."""
        found = [(module.path, ast.get_docstring(module.tree) or "") for module in self.modules]
        return [(f"{path}:1", text.splitlines()[0]) for path, text in found if QUESTION.match(text)]

    @property
    def circles(self) -> list[list[str]]:
        """Groups of modules that import one another."""
        known = {module.name for module in self.modules}
        graph: Graph = {}
        for module in self.modules:
            parents = (name if name in known else name.rpartition(".")[0] for name in module.imports())
            graph[module.name] = {name for name in parents if name in known} - {module.name}
        return circles_of(graph)

    @property
    def shared_names(self) -> dict[str, list[str]]:
        """Name of a class or type -> the modules that define it, where the definitions differ."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for module in self.modules:
            for name, definition in module.type_names():
                found[name].append((module.name, definition))
        return {
            name: [module for module, _ in places]
            for name, places in sorted(found.items())
            if len({definition for _, definition in places}) > 1
        }

    @property
    def named_like_an_import(self) -> list[str]:
        """Modules called like a package from elsewhere that they import."""
        return [
            module.name
            for module in self.modules
            if module.name.rpartition(".")[2] in {name.split(".")[0] for name in module.imports()}
        ]

    @property
    def format_skips(self) -> int:
        """Number of places that ruff's formatter is told to leave alone."""
        return sum(len(re.findall(r"#\s*fmt: (?:skip|off)", module.text)) for module in self.modules)

    def table(self) -> list[tuple[str, str]]:
        """Name and value of every figure."""
        once = [self.called_once(by_words=by_words) for by_words in (True, False)]
        return [
            ("source files", str(self.files)),
            (f"source files under {SHORT} lines", str(len(self.short_files))),
            ("lines of source", f"{self.lines:,}"),
            ("functions", f"{self.functions:,}"),
            ("public functions", str(self.public_functions)),
            ("private functions", str(self.private_functions)),
            ("private functions called once", f"{once[0]} by words, {once[1]} by syntax"),
            ("  of functions", f"{100 * self.share_called_once:.1f} %"),
            ("docstring summaries", f"{self.summaries:,}"),
            ("  that begin as a question", str(len(self.questions))),
            ("docstrings of modules that do", str(len(self.module_questions))),
            ("import circles", str(len(self.circles))),
            ("one name for two things", str(len(self.shared_names))),
            ("modules named like what they import", str(len(self.named_like_an_import))),
            ("format skips", str(self.format_skips)),
            ("test lines per source line", f"{self.test_lines / self.lines:.2f}"),
        ]


def is_private(name: str) -> bool:
    """True for a name that begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def count(source: Path) -> Counts:
    """Read a source tree and the tests beside it."""
    modules = []
    for path in sorted(source.rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        modules.append(Module(name, path, text, ast.parse(text)))
    tests = source.parent / "tests"
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in tests.rglob("*.py"))
    return Counts(modules, lines)


def circles_of(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach one another (Tarjan's strongly connected components of two or more)."""
    order: dict[str, int] = {}
    least: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = least[node] = len(order)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in order:
                visit(other)
            if other in stack:
                least[node] = min(least[node], least[other])
        if least[node] == order[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def print_lists(counts: Counts) -> None:
    """Print what each count consists of, package by package."""
    packages: dict[str, list[Module]] = defaultdict(list)
    for module in counts.modules:
        packages[module.package].append(module)
    for package, modules in sorted(packages.items()):
        part = Counts(modules, 0)
        print(
            f"\n== {package}: {part.lines:,} lines in {part.files} files, {part.functions} functions, "
            f"{100 * part.share_called_once if part.functions else 0:.0f} % called once"
        )
        for module in modules:
            found = {
                node.lineno: node.name
                for by_words in (True, False)
                for node in module.called_once(by_words=by_words)
            }
            for line, name in sorted(found.items()):
                print(f"  called once  {module.path}:{line}: {name}")
        for module in part.short_files:
            print(f"  short        {module.path}: {module.lines} lines")
        for place, summary in (*part.questions, *part.module_questions):
            print(f"  question     {place}: {summary}")
    print("\n== all")
    for circle in counts.circles:
        print(f"  circle       {' <-> '.join(circle)}")
    for name, places in counts.shared_names.items():
        print(f"  two things   {name}: {', '.join(places)}")
    for name in counts.named_like_an_import:
        print(f"  like import  {name}")


def main() -> None:
    """Print the table, and with --list what it counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", nargs="?", type=Path, default=Path(__file__).parents[2] / "src")
    parser.add_argument("--list", action="store_true", help="print what the counts consist of, by package")
    options = parser.parse_args()
    counts = count(options.source)
    for name, value in counts.table():
        print(f"{name:<38}{value}")
    if options.list:
        print_lists(counts)


if __name__ == "__main__":
    main()
