"""The picture in docs/architecture.md is that of the code."""

import re

import pytest


@pytest.fixture(scope="module")
def picture(root) -> str:
    """The tree of packages and modules."""
    return (root / "docs/architecture.md").read_text(encoding="utf-8").split("```")[1]


def test_every_module_is_in_the_picture(picture, root):
    modules = {path.name for path in (root / "src/farvox").rglob("*.py")} - {"__main__.py"}
    assert modules - set(re.findall(r"\w+\.py", picture)) == set()


def test_everything_in_the_picture_is_there(picture, root):
    inside = picture[picture.index("src/farvox/") :]
    existing = {path.name for path in (root / "src/farvox").rglob("*.py")}
    assert set(re.findall(r"\w+\.py", inside)) - existing == set()
    packages = re.findall(r"^  (\w+)/ ", inside, re.MULTILINE)
    assert all((root / "src/farvox" / package).is_dir() for package in packages)


def test_the_packages_on_disk_are_the_packages_in_the_picture(picture, root):
    on_disk = {path.parent.name for path in (root / "src/farvox").glob("*/__init__.py")}
    assert on_disk == set(re.findall(r"^  (\w+)/ ", picture, re.MULTILINE))
