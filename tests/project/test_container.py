"""The Containerfile says what is here: no daemon need be there to build it."""

import json
import re
from pathlib import Path

import pytest

from farvox.cli.main import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]
LAST = STEPS[[number for number, (word, _) in enumerate(STEPS) if word == "FROM"][-1] :]


@pytest.fixture
def options(capsys):
    """The options of ``farvox serve``."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    return set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))


def test_what_is_copied_is_there_and_nothing_else_is_sent():
    copied = [words.split()[:-1] for word, words in STEPS if word == "COPY" and "--from" not in words]
    sources = [name for names in copied for name in names]
    assert sources and [name for name in sources if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*" and [line[1:] for line in ignored if line[0] == "!"] == sources


def test_it_is_served_with_options_that_there_are_and_not_as_root(options):
    last = dict(LAST)  # of each word the last one
    assert json.loads(last["ENTRYPOINT"]) == ["farvox", "serve"]
    words = json.loads(last["CMD"])
    assert {word for word in words if word.startswith("--")} <= options
    assert last["USER"] not in ("root", "0", "0:0")
    assert ("EXPOSE", words[words.index("--port") + 1]) in map(tuple, LAST)
    assert f":{last['EXPOSE']}/v1/ready" in last["HEALTHCHECK"]
    volumes = json.loads(last["VOLUME"])
    assert str(Path(words[words.index("--store") + 1]).parent) in volumes
    assert re.search(r"FARVOX_KEYS=(\S+)", last["ENV"])[1] in volumes


def test_its_packages_are_pinned_and_its_base_has_a_version():
    assert re.search(r"^ARG BASE=\S+:3\.11\.\d+-slim-\w+$", TEXT, re.MULTILINE)
    assert [words for word, words in STEPS if word == "FROM" and not words.startswith("${BASE}")] == []
    installs = re.findall(r"pip\S*(?: --python \S+)? install ([^&;\n]*)", TEXT)
    assert len(installs) == 3 and all("-c constraints.txt" in words for words in installs)
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    named = {
        word
        for words in installs
        for word in words.split("constraints.txt")[1].split()
        if re.fullmatch(r"[a-z][\w-]*", word)
    }
    assert named <= set(pinned)


def test_the_page_on_production_names_options_that_there_are(options):
    page = (ROOT / "docs/production.md").read_text(encoding="utf-8")
    served = re.findall(r"farvox serve (.*)", page)
    assert served and {word for words in served for word in re.findall(r"--[a-z][a-z-]+", words)} <= options
