"""The README as a new user follows it: from a fresh clone, each block copied in order, but ``make test``."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "== what is shown beneath block"
NUMBER = r"\d+(?:\.\d+)?"


def test_a_fresh_clone_does_what_its_readme_says(tmp_path, tell):
    """In one shell, as a reader has it, with an empty cache: each block prints what is shown beneath."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "farvox")], check=True)
    text = (tmp_path / "farvox/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|python|)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    script, shown = ["set -u"], {}
    for number, (kind, block) in enumerate(blocks):
        if kind == "sh":
            for line in block.splitlines():
                is_answer = "farvox verify" in line  # of which 1 is no fault
                if line != "make test":
                    script.append(f"{line} || {'[ $? = 1 ] || ' if is_answer else ''}exit 3")
        elif kind == "python":
            script += [f"python - <<'END' || exit 3\n{block}END"]
        else:
            shown[number] = block
            script += [f"echo '{MARK} {number}'"]
    home = {"HOME": str(tmp_path / "home"), "FARVOX_CACHE": str(tmp_path / "cache")}
    names = ("PATH", "PIP_", "LANG", "OMP_")  # one thread, of `make soak`: several wait on a busy machine
    kept = {name: value for name, value in os.environ.items() if name.startswith(names)}
    kept["PATH"] = ":".join(each for each in kept["PATH"].split(":") if ".venv" not in each)
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path / "farvox", env=kept | home, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for number, block in shown.items():
        printed = done.stdout.split(f"{MARK} {number}\n")[0].rstrip().splitlines()
        last = "\n".join(printed[-len(block.splitlines()) :])
        assert re.sub(NUMBER, "N", last) == re.sub(NUMBER, "N", block.rstrip())
        numbers = [[float(each) for each in re.findall(NUMBER, text)] for text in (last, block)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.002), last
    tell("README from a fresh clone", blocks=len(blocks), shown=len(shown))


def test_the_wheel_of_the_readme_is_installed_elsewhere_and_gets_an_extra_as_it_says(tmp_path, tell):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (build,) = re.findall(r"^(pip wheel .*)$", text, re.MULTILINE)
    (install,) = re.findall(r"^(pip install 'dist/.*)$", text, re.MULTILINE)
    (extra,) = re.findall(r"`(pip install 'farvox\[sim\]')`", text)
    script = [
        f"git clone --quiet {ROOT} farvox && cd farvox",
        build,
        "python3.11 -m venv elsewhere && . elsewhere/bin/activate",
        install,
        "if farvox sample recordings; then exit 3; fi",
        extra,
        "farvox sample recordings",
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FARVOX"))}
    shell = ["bash", "-euc", "\n".join(script)]
    done = subprocess.run(shell, cwd=tmp_path, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "pip install 'farvox[sim]'" in done.stderr and "recordings/chris/far.wav" in done.stdout
    tell("a wheel, installed elsewhere")
