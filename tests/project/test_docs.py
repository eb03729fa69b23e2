"""Every command in the README and the docs is run, the long ones at a reduced size.

A page is run from top to bottom in a folder of its own that holds small corpora of the publishers' shapes. A
command that is not known here fails its page, so that nothing stays untested.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import pytest
import soundfile
import tomli_w

import farvox
from farvox.cli.main import ANSWERS, VERBS, main
from farvox.cli.recipes import load_recipe, parse_overrides
from farvox.options import merge
from farvox.pipelines.recipe import Recipe, find_recipe, read_toml, recipe_names

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
SHELL = ("find", "awk", "head", "cat", "cp", "cut", "mkdir", "export")
WHEEL = f"dist/farvox-{farvox.__version__}-py3-none-any.whl"
DRY = ("make", "pip", "podman", "torchrun", "python", "python3.11", "source", "tar")

SMALL = """
--data.num_frames 40 --data.workers 0 --data.epoch_size 16 --optim.batch_size 8 --schedule.margin_epochs []
--device cpu --threads 1
"""
FEW = {"300": "6", "10:400:10": "2:6"}
NARROW = {
    "ffsvc-resnet34": "--model.channels 16 --model.embedding_dim 32",
    "ffsvc-ecapa": "--model.channels 128 --model.embedding_dim 32 --model.bottleneck 16",
    "resnet34": "--model.channels 16 --model.embedding_dim 32",
    "ecapa": "--model.channels 128 --model.embedding_dim 32",
    "xvector": "--model.channels 32 --model.pooled_channels 64 --model.embedding_dim 32",
}


SMALL_START = ["--init.model", "downloads/small-campplus", "--model", "{}"]


@dataclass(frozen=True)
class Command:
    """A line of an ``sh`` block; ``shown`` is the block beneath, if it is the last line."""

    page: str
    line: int
    text: str
    shown: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: $ {self.text}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def commands(page: str) -> list[Command]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: list[Command] = []
    kind, block = "", []
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            is_beneath = (
                kind == "```" and found and lines[found[-1].line : number - len(block) - 2] == ["```", ""]
            )
            if is_beneath:
                found[-1] = replace(found[-1], shown="\n".join(block))
            kind, block = ("", []) if kind else (line, [])
        elif kind == "```sh":
            found.append(Command(page, number, line))
        elif kind == "```":
            block.append(line)
    return found


def python_blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def uses_the_zoo(page: str) -> bool:
    verbs = {command.words[1] for command in commands(page) if command.words[0] == "farvox"}
    return bool(verbs & {"verify", "enrol", "identify", "pull"}) or "campplus-zh-en" in "".join(
        command.text for command in commands(page)
    )


def reduced(words: list[str]) -> list[str]:
    """A farvox command as it is run here: few and short examples, few channels, and only the last epoch.

    A run that is asked to be longer than its recipe is so by an epoch. Cohorts and numbers of clusters are as
    small as the corpora.
    """
    if words[0] in ("score", "cluster"):
        return [FEW.get(word, word) for word in words]
    if words[:2] == ["extract", "campplus-zh-en"] and words[3].startswith("exp/farfield/start"):
        return [words[0], SMALL_START[1], *words[2:]]
    if words[:2] == ["subset", "data/card/so762/train"]:
        return [*words, "--per-speaker", "2"]
    if words[0] == "adapt":
        return [*words, "--recipe", short_recipe("adapt")]
    if words[0] not in ("train", "run", "selftrain"):
        return words
    recipe = load_recipe(words[1])
    small = shlex.split(SMALL)
    if words[1] == "demo" and "--paths.spec" not in words:
        small += ["--paths.spec", "tiny"]
    if "rooms" in recipe.paths:
        small += ["--paths.rooms", "8"]
    if recipe.init.classifier == "means":
        small += ["--init.mean_utterances", "1"]
    if recipe.init.model == "campplus-zh-en":
        small += SMALL_START
    if not recipe.init.model:
        small += shlex.split(NARROW[recipe.model["name"]])
    first = 0 if recipe.adapt else recipe.schedule.epochs - 1
    asked = int(words[words.index("--schedule.epochs") + 1]) if "--schedule.epochs" in words else 0
    last = first + 1 + (asked > recipe.schedule.epochs)
    if words[0] == "selftrain":
        small += ["--selftrain.clusters", "2:6", "--selftrain.rounds", "1", "--selftrain.min_size", "1"]
    return [*words, *small, "--schedule.first_epoch", str(first), "--schedule.epochs", str(last)]


def short_recipe(name: str) -> str:
    """The path of a recipe that trains two steps in two rooms."""
    words = [*shlex.split(SMALL), *SMALL_START, "--init.mean_utterances", "1", "--schedule.epochs", "1"]
    table = merge(read_toml(find_recipe(name)), parse_overrides(words))
    lines = [
        re.sub(r"--rooms \d+", "--rooms 2", line).replace("noise 96", "noise 16") for line in table["prepare"]
    ]
    Path("short.toml").write_text(tomli_w.dumps(table | {"prepare": lines}))
    return "short.toml"


def run_farvox(words: list[str]) -> int:
    try:
        return main(reduced(words))
    except SystemExit as end:  # --help
        return int(end.code or 0)


def extras_of_project() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def check_dry(command: Command) -> None:
    """What cannot be run here at all: that it would at least be understood."""
    match command.words:
        case ["make", target]:
            done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        case ["pip", "install", wheel]:
            extra = re.fullmatch(rf"(?:farvox|{re.escape(WHEEL)})\[(\w+)\]", wheel)
            assert extra and extra[1] in extras_of_project(), str(command)
        case ["pip", "wheel", "--no-deps", "-w", "dist", "."]:
            pass
        case ["pip", "install", "--no-deps", wheel] if wheel == WHEEL:
            pass  # run below, in an environment of its own
        case ["pip", "install", "numpy", *_]:
            pass  # likewise
        case ["pip", "install", "-c", constraints, "-e", project]:
            extra = re.fullmatch(r"\.\[(\w+)\]", project)
            assert (ROOT / constraints).is_file() and extra and extra[1] in extras_of_project(), str(command)
        case ["podman", "build", *_, "."] | ["podman", "run", *_, "farvox"]:
            pass  # tests/project/test_container.py
        case ["torchrun", *options, "-m", "farvox", "train", name]:
            load_recipe(name)
        case ["torchrun", *words]:
            options, (name, *overrides) = words[: words.index("-m")], words[words.index("train") + 1 :]
            assert options and load_recipe(name, overrides)
        case ["tar", "-xzf", archive, "-C", _]:
            assert archive.startswith("downloads/"), str(command)
        case ["python3.11", "-c", code]:  # short enough to be run
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        case ["python3.11", "-m", "venv", ".venv"] | ["source", ".venv/bin/activate"]:
            pass
        case _:
            pytest.fail(f"{command}: not known here; say in tests/project/test_docs.py how it is tested")


def check_runs(command: Command) -> None:
    first = command.words[0]
    if command.text == "make demo" and command.page == "README.md":
        assert run_farvox(["run", "demo"]) == 0, str(command)
    elif first == "farvox":
        answers = (0, 1) if command.words[1] in ANSWERS else (0,)
        assert run_farvox(command.words[1:]) in answers, str(command)
    elif first in SHELL:
        done = subprocess.run(["bash", "-euc", command.text], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        print(done.stdout, end="")
    else:
        assert first in DRY, f"{command}: not known here; say in tests/project/test_docs.py how it is tested"
        check_dry(command)


@pytest.fixture
def at_home(home, tmp_path, monkeypatch):
    """A user's folder: corpora and downloads are there, nothing else is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARVOX_CORPORA", str(tmp_path / "corpora"))
    monkeypatch.setenv("FARVOX_DATA", str(tmp_path / "user-data"))
    for name in ("corpora", "downloads"):
        (tmp_path / name).symlink_to(home / name)
    return tmp_path


NUMBER = r"\d+(?:\.\d+)?"


def assert_alike(printed: str, shown: str) -> None:
    """Assert that a text is the one shown, but for the last digits of numbers, which a machine rounds."""
    assert re.sub(NUMBER, "N", printed.strip()) == re.sub(NUMBER, "N", shown.strip())
    numbers = [[float(number) for number in re.findall(NUMBER, text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.002), printed


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(at_home, page, request, capsys):
    """They print what is shown beneath them, too."""
    if uses_the_zoo(page):
        request.getfixturevalue("campplus")  # skips where it cannot be fetched
    if any("s3://bucket" in command.text for command in commands(page)):
        request.getfixturevalue("bucket")
        import_module("fsspec").filesystem("s3").makedirs("bucket", exist_ok=True)
    for command in commands(page):
        capsys.readouterr()
        check_runs(command)
        if command.shown:
            assert_alike(capsys.readouterr().out, command.shown)


BEYOND_A_SAMPLE = (
    *("adapt", "selftrain", "replay", "run", "train", "average", "import", "fuse", "calibrate"),
    "serve",  # tests/service run it
    "join",  # of shards, which no example makes
)
"""Verbs whose examples need a run of training or more speakers, those of their pages are run above; or do not
end."""


@pytest.mark.slow
def test_the_examples_of_the_help_run_in_their_order(at_home, campplus):
    for name, verb in VERBS.items():
        if name not in BEYOND_A_SAMPLE:
            words = [name, *shlex.split(verb.example)]
            assert run_farvox(words) in ((0, 1) if name in ANSWERS else (0,)), words
    for name in ("selftrain", "run", "train"):
        load_recipe(*VERBS[name].example.split()[:1], VERBS[name].example.split()[1:])


def test_the_readme_shows_what_its_first_commands_print():
    first = [command for command in commands("README.md") if command.words[0] == "farvox"]
    assert [command.words[1] for command in first[:2]] == ["sample", "verify"]
    assert [bool(command.shown) for command in first[:3]] == [False, True, True]


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {farvox.__version__}\n" in citation and "\nlicense: Apache-2.0\n" in citation


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_the_python_of_a_page_runs(at_home, page, request):
    """From top to bottom in one session, after what the page's commands have made, if Python needs it."""
    request.getfixturevalue("campplus")
    if "exp/campplus.onnx" in "".join(python_blocks(page)):
        assert run_farvox(["export", "campplus-zh-en", "exp/campplus.onnx"]) == 0
    assert run_farvox(["sample", "recordings"]) == 0
    assert run_farvox(["prepare", "folder", "recordings", "data/mine"]) == 0
    code = "\n\n".join(python_blocks(page))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_in_an_example_that_is_run():
    code = "\n\n".join(python_blocks("docs/python.md"))
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    for package in ("farvox", "farvox.augment", "farvox.verifier", "farvox.zoo"):
        assert set(import_module(package).__all__) - {"__version__"} <= used, package


@pytest.fixture
def real_recordings(corpora, tmp_path):
    """A user's folder with real speech: 20 speakers to choose a threshold by, and two others."""
    speakers = sorted((corpora / "an4/wav/an4_clstk").iterdir())
    people = {f"mine/{folder.name}": folder for folder in speakers[:20]}
    people |= {"recordings/ann": speakers[20], "recordings/bob": speakers[21]}
    for name, folder in people.items():
        for number, path in enumerate(sorted(folder.glob("*.flac"))[:6], start=1):
            wav_T, rate = soundfile.read(path)
            copy = tmp_path / f"corpora/{name}/{number}.wav"
            copy.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(copy, wav_T, rate)
    return tmp_path


@pytest.fixture
def device(wheel, tmp_path):
    """The programs of an environment that has what docs/device.md installs on a device, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "device")], check=True)
    installs = [each.words[1:] for each in commands("docs/device.md") if each.words[:2] == ["pip", "install"]]
    for words in [words for words in installs if words[1:] != [f"{WHEEL}[onnx]"]]:
        named = [str(wheel) if word == WHEEL else word for word in words]
        pip = [str(tmp_path / "device/bin/python"), "-m", "pip", *named, "-c", str(ROOT / "constraints.txt")]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode and "onnection" in done.stdout + done.stderr:
            pytest.skip(f"pip cannot reach its index: {done.stderr.splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
    return tmp_path / "device/bin"


@pytest.mark.slow
def test_a_threshold_of_ones_own_is_chosen_with_torch_and_shipped_to_a_device_without(
    real_recordings, campplus, device, monkeypatch, capsys
):
    """As docs/threshold.md has it, from the recordings on; its ``farvox verify`` is that of the device."""
    monkeypatch.chdir(real_recordings)
    monkeypatch.setenv("FARVOX_DATA", "user-data")
    page = (ROOT / "docs/threshold.md").read_text(encoding="utf-8")
    section = page.split("\n## A threshold of your own\n")[1].split("\n## ")[0]
    way = re.findall(r"^(farvox .*)$", section, re.MULTILINE)
    verify = next(number for number, text in enumerate(way) if "verify --model exp/mine.onnx" in text)
    verbs = [shlex.split(text)[1] for text in way[:verify]]
    assert set(verbs) == {"pull", "prepare", "trials", "extract", "score", "evaluate", "calibrate"}
    for text in way[:verify]:
        assert run_farvox(shlex.split(text)[1:]) == 0, text

    away = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FARVOX"))}
    away["FARVOX_CACHE"] = str(real_recordings / "no-cache")
    torch = subprocess.run([str(device / "python"), "-c", "import torch"], env=away, capture_output=True)
    assert torch.returncode == 1
    for test in ("bob/1", "ann/2", "bob/2"):
        words = shlex.split(way[verify].replace("bob/1", test))[1:]
        done = subprocess.run(
            [str(device / "farvox"), *words, "--json"], env=away, capture_output=True, text=True
        )
        assert done.returncode in (0, 1), done.stderr
        capsys.readouterr()
        here = [word.removesuffix(".onnx") for word in words]  # the folder, whose weights torch computes
        assert run_farvox([*here, "--backend", "torch", "--json"]) == done.returncode
        shipped, chosen = json.loads(done.stdout), json.loads(capsys.readouterr().out)
        assert chosen["backend"].startswith("torch") and shipped["backend"].startswith("onnxruntime")
        assert shipped["score"] == pytest.approx(chosen["score"], abs=1e-4)
        assert shipped["threshold"] == chosen["threshold"] and shipped["same"] == chosen["same"]
        assert shipped["same"] == test.startswith("ann")


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_written_where_they_are_found(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"^```(bash|console|shell|text)", text, re.MULTILINE), "commands go into sh blocks"
    assert not re.search(r"^\$ ", text, re.MULTILINE), "a copied command has no prompt"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_says_first_whom_it_is_for(page):
    title, audience, *_ = (ROOT / page).read_text(encoding="utf-8").split("\n\n")
    assert title.startswith("# ") and re.fullmatch(r"\*For .+\.\*", audience)


@pytest.mark.parametrize("page", [*PAGES, "SECURITY.md"])
def test_a_table_has_a_heading_for_every_column(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    heads = re.findall(r"^\|(.*)\|\n\|[-: |]+\|$", text, re.MULTILINE)
    assert [head for head in heads if not all(cell.strip() for cell in head.split("|"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_mentions_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    verbs = set(re.findall(r"`farvox ([a-z]+)", text)) - {"models", "recipes"}
    assert verbs <= VERBS.keys()
    named = re.findall(r"`((?:ffsvc2022|himia|voxceleb|quickstart|farfield)/[\w-]+)`", text)
    assert set(named) <= set(recipe_names())
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs mkdocs-material, of the extra dev")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "commands/index.html").is_file()


def options_of(verb: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "farvox", verb, "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*(?![\w.-])", done.stdout.split("fields of a recipe")[0]))
    return {option for option in found if not option.startswith("--no-j")} - {"--help", "--field"}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("models", "recipes")])
def test_the_options_of_a_verb_are_those_of_its_page(verb):
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (section,) = [part for part in section if part.startswith(f"{verb}\n")]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `--"))
    documented = set(re.findall(r"--[a-z][a-z-]*(?![\w.-])", table))
    assert documented == options_of(verb)


def test_every_field_of_a_recipe_is_in_the_formats():
    import dataclasses

    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Recipe):
        default = getattr(Recipe(), field.name)
        inner = dataclasses.fields(default) if dataclasses.is_dataclass(default) else []
        for name in [f"{field.name}.{each.name}" for each in inner] or [field.name]:
            assert f"`{name}`" in text or f"[[{name}]]" in text, f"docs/formats.md does not have {name}"
