"""The counting script counts what its definitions say."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("count.py")

MODULES = {
    "tree/__init__.py": "",
    "tree/one.py": '''"""What this module is for."""
from __future__ import annotations
from typing import TYPE_CHECKING
import numpy as np
from tree import two
if TYPE_CHECKING:
    from tree.three import Side
Floats = np.float32


class Side:
    """A side."""

    def _twice(self) -> int:
        """Return one."""
        return 1

    def both(self) -> int:
        """How many there are."""
        return self._twice() + self._twice()


def public() -> int:
    """Return two."""

    def nested() -> int:
        return _once()

    return nested()


def _once() -> int:
    return 2


def _callback() -> int:
    return 3


CALLBACKS = [_callback]
''',
    "tree/two.py": '''"""Two."""


def late() -> None:
    """Import inside a function."""
    from tree.one import public

    public()
''',
    "tree/three.py": '''"""Three."""
import numpy
Floats = numpy.float64
class Side: pass  # fmt: skip
''',
    "tree/numpy.py": '''"""A bad name."""
import numpy
''',
}  # fmt: skip


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT), run_name="count")


@pytest.fixture
def counts(script, tmp_path):
    for name, text in MODULES.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_tree.py").write_text("assert True\n" * 7)
    return script["count"](tmp_path / "src")


def test_files_functions_and_lines_are_counted(counts):
    assert (counts.files, counts.functions, counts.test_lines) == (5, 7, 7)
    assert len(counts.short_files) == 5
    assert (counts.public_functions, counts.private_functions) == (4, 3)
    assert counts.lines == sum(len(text.splitlines()) for text in MODULES.values())


def test_a_private_function_used_once_in_its_file_is_counted_by_words_and_by_syntax(counts):
    (one,) = (module for module in counts.modules if module.name == "tree.one")
    for by_words in (True, False):
        assert {node.name for node in one.called_once(by_words=by_words)} == {"_once", "_callback"}
    assert counts.share_called_once == 2 / 7


def test_summaries_that_begin_as_a_question_are_counted_apart_from_those_of_modules(counts):
    assert counts.summaries == 5
    assert [summary for _, summary in counts.questions] == ["How many there are."]
    assert [summary for _, summary in counts.module_questions] == ["What this module is for."]


def test_an_import_inside_a_function_closes_a_circle_and_one_for_type_checking_does_not(counts):
    assert counts.circles == [["tree.one", "tree.two"]]


def test_one_name_for_two_classes_or_two_types_is_found(counts):
    assert counts.shared_names == {name: ["tree.one", "tree.three"] for name in ("Floats", "Side")}
    assert counts.named_like_an_import == ["tree.numpy"]
    assert counts.format_skips == 1


def test_the_table_and_the_lists_are_printed(script, counts, capsys):
    names = [name for name, _ in counts.table()]
    assert len(names) == len(set(names))
    script["print_lists"](counts)
    out = capsys.readouterr().out
    assert "_once" in out and "tree.one <-> tree.two" in out


MOST_FILES = 190
MOST_LINES = 44_115
MOST_PUBLIC_FUNCTIONS = 1_264
MOST_FORMAT_SKIPS = 61
"""As many as there were at 465a09f."""


@pytest.fixture(scope="module")
def farvox(script):
    return script["count"](SCRIPT.parents[2] / "src")


def test_the_source_does_not_grow_past_what_it_was(farvox):
    assert farvox.files <= MOST_FILES
    assert farvox.lines <= MOST_LINES
    assert farvox.public_functions <= MOST_PUBLIC_FUNCTIONS
    assert farvox.format_skips <= MOST_FORMAT_SKIPS


def test_few_functions_are_paragraphs_of_their_caller(farvox):
    assert farvox.share_called_once <= 0.12


def test_docstrings_do_not_begin_as_questions(farvox):
    assert len(farvox.questions) <= 0.01 * farvox.summaries
    assert len(farvox.module_questions) <= 0.01 * farvox.files


def test_modules_do_not_import_one_another_and_one_name_is_one_thing(farvox):
    assert farvox.circles == []
    assert farvox.shared_names == {}
    assert farvox.named_like_an_import == []


def test_there_are_enough_tests(farvox):
    assert farvox.test_lines >= 0.75 * farvox.lines
