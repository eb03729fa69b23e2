"""What the command says and returns when the system refuses, and when nobody listens."""

import ast
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tomli_w

import farvox
from farvox.audio.files import write_audio
from farvox.children import END
from farvox.cli.main import GROUPS, VERBS, main, missing_package, usage
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import Utterance, write_data_dir

FARVOX = [sys.executable, "-m", "farvox"]


@pytest.fixture
def speakers(tmp_path: Path) -> Path:
    """A data dir of the speakers A and B."""
    write_audio(tmp_path / "x.wav", np.full(1600, 0.1))
    write_data_dir(tmp_path / "data", [Utterance(f"{s}-1", str(tmp_path / "x.wav"), s) for s in "AB"])
    return tmp_path / "data"


def test_a_refusal_of_the_system_that_names_a_file_is_a_line_and_status_1(
    speakers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["subset", str(speakers), str(tmp_path / "out"), "--speakers", "1-1"]
    assert main(words) == 0
    (tmp_path / "out/wav.scp").unlink()
    (tmp_path / "out/wav.scp").mkdir()
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"farvox subset: {tmp_path}/out: cannot be written: ") and said.count("\n") == 1


def test_the_verbs_are_in_groups_and_one_begins_with_the_first() -> None:
    titles = re.findall(r"^(.*):$", usage(), re.MULTILINE)
    assert titles == list(GROUPS) and titles[0] == "start here"
    assert re.findall(r"^  ([a-z]+) ", usage(), re.MULTILINE) == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_an_example_and_no_default_that_is_none(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert f"example: farvox {verb} {VERBS[verb].example}".rstrip() in said
    assert not re.search(r"default:? *(None|False|''|\[\])?\)|None[}|,]", said)


def test_the_help_breaks_no_sentence_where_its_source_has_a_line_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["trials", "--help"])
    said = capsys.readouterr().out
    assert "With --enrol, --test, --enrol-where or --test-where a pair is" in said
    assert "have one of these values in utt2cond; given again for another condition, both must hold" in said


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_an_unknown_verb_or_option_is_three_lines(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "demo", "--sede=3"] if verb else ["verfiy", "a"]) == 2
    fault, use, more = capsys.readouterr().err.splitlines()
    name = f"farvox {verb}".strip()
    assert fault.startswith(f"{name}: ") and ("sede" in fault or "did you mean 'verify'?" in fault)
    assert use.startswith(f"usage: {name}") and more.startswith(f"'{name} --help' ")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("trials data", "missing: OUT"),
        ("score trials", "missing: --out SCORES"),
        ("import checkpoint", "missing: OUT, --arch ARCH"),
        ("sample out --seed", "--seed needs a value"),
        ("score t e --out --norm s-norm", "--out needs a value: SCORES"),
        ("rirs out --rooms=x", "--rooms must be a whole number, not 'x'"),
        ("verify a b --threshold high", "--threshold must be a number, not 'high'"),
        ("score t e --out o --norm None", "--norm must be one of s-norm, as-norm, not 'None'"),
        ("simulate a b --snr 5", "--snr needs 2 values"),
        ("simulate a b --snr 5 x --copies 2", "--snr must be a number, not 'x'"),
        ("recipes demo all", "unknown words: all"),
    ],
)
def test_a_word_that_is_missing_or_wrong_is_three_lines(words, fault, capsys) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    name = f"farvox {words.split()[0]}"
    first, use, more = err.splitlines()
    assert (out, first) == ("", f"{name}: {fault}")
    assert use.startswith(f"usage: {name}") and more == f"'{name} --help' explains its options"


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    with subprocess.Popen([*FARVOX, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.fixture
def started(in_session):
    """A function that starts a verb, which has begun to take signals when it returns."""

    def started(*words: object) -> "subprocess.Popen[str]":
        command, pipe = [*FARVOX, *map(str, words)], subprocess.PIPE
        process = in_session(command, stdout=pipe, stderr=pipe, text=True)
        taken = 0
        while not taken >> (signal.SIGTERM - 1) & 1:
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            (line,) = (line for line in status if line.startswith("SigCgt"))
            taken = int(line.split()[1], 16)
        return process

    return started


@pytest.mark.slow
@pytest.mark.parametrize("number", END, ids=lambda number: number.name)
@pytest.mark.parametrize("workers", [0, 2], ids=["at once", "at work"])
def test_a_signal_ends_a_verb_with_a_line_and_leaves_nothing(
    number: signal.Signals, workers: int, tmp_path: Path, running, started, wait_until
) -> None:
    """At once, and when its processes are there."""
    pytest.importorskip("pyroomacoustics", reason="rooms need pyroomacoustics")
    verb = started("rirs", tmp_path / "out", "--rooms", 100_000, "--jobs", 2)
    wait_until(lambda: sum("spawn_main" in words for words in running(verb.pid).values()) >= workers)
    verb.send_signal(number)
    _, error = verb.communicate(timeout=120)
    assert verb.returncode == 128 + number
    what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert error.splitlines()[-1] == f"farvox rirs: {what}" and "Traceback" not in error
    wait_until(lambda: not running(verb.pid), 30)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_signal_that_comes_in_a_callback_is_not_lost() -> None:
    program = """
import os, signal, time, weakref
from farvox.cli import main
class Thing: ...

def nap(words):
    thing = Thing()
    watch = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(1))
    del thing
    time.sleep(30)

nap.parses_its_own_words = True
main.VERBS["nap"] = main.Verb("__main__:nap", "", "")
raise SystemExit(main.main(["nap"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (143, "farvox nap: ended by SIGTERM\n")


def test_a_verb_that_answers_gives_none_when_a_signal_ends_it(tmp_path: Path, running, started) -> None:
    verb = started("verify", "--json", tmp_path / "a.wav", tmp_path / "b.wav")
    verb.terminate()
    out, error = verb.communicate(timeout=120)
    assert (verb.returncode, error) == (2, "farvox verify: ended by SIGTERM\n")
    assert json.loads(out)["error"]["message"] == "ended by SIGTERM"


def test_a_data_verb_of_a_recipe_that_is_ended_ends_the_whole_run(
    tmp_path: Path, running, started, wait_until
) -> None:
    recipe = {"model": {"name": "xvector"}, "prepare": [f"rirs {tmp_path}/rirs --rooms 100000 --jobs 1"]}
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps({**recipe, "data": {"train": ["x"]}}))
    run = started("run", tmp_path / "recipe.toml", "--run-dir", tmp_path / "run", "--to", "prepare")
    wait_until(lambda: [*tmp_path.glob("rirs/*/*.wav")])
    run.terminate()
    _, error = run.communicate(timeout=120)
    assert (run.returncode, error.splitlines()[-1]) == (143, "farvox run: ended by SIGTERM")
    assert not running(run.pid)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_a_line_and_status_1() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*FARVOX, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "farvox --version: the disk is full: free some space on it\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="streams are closed by number")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_change_neither_the_status_nor_a_file(closed, speakers: Path, tmp_path: Path) -> None:
    def run(*words: str, status: int) -> bytes:
        done = subprocess.run(
            [*FARVOX, *words], capture_output=True, preexec_fn=lambda: [os.close(number) for number in closed]
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    whole = str(tmp_path / "whole")
    assert b"Traceback" not in run("check", str(speakers), status=0)
    assert b"Traceback" not in run("subset", str(speakers), whole, "--speakers", "2-2", status=0)
    assert (tmp_path / "whole/spk2utt").read_text() == "B B-1\n"  # and nothing that was printed
    assert b"Traceback" not in run("check", str(tmp_path / "none"), status=1)
    assert b"Traceback" not in run("--no-such-verb", status=2)


def test_a_list_is_read_from_a_pipe_and_a_folder_is_refused(speakers: Path, tmp_path: Path) -> None:
    words = [*FARVOX, "subset", str(speakers), str(tmp_path / "out"), "--speakers"]
    done = subprocess.run([*words, "/dev/stdin"], input=b"B\n", capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "out/spk2utt").read_text() == "B B-1\n"
    done = subprocess.run([*words, str(tmp_path)], capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode() == f"farvox subset: {tmp_path}: cannot be read: Is a directory\n"


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Blocked())
from farvox.cli.main import main
sys.exit(main())
"""
"""Program that runs farvox as if the modules named by its first argument were not installed."""


@pytest.mark.parametrize(
    ("module", "words", "status", "install"),
    [
        ("polars", ["check", "data"], 1, "pip install polars"),
        ("polars", ["subset", "data", "out", "--speakers", "A"], 1, "pip install polars"),
        ("polars", ["score", "trials", "emb", "--out", "out"], 1, "pip install polars"),
        ("tyro", ["verify", "x.wav", "x.wav"], 2, "pip install tyro"),
    ],
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    module: str, words: list[str], status: int, install: str, speakers: Path
) -> None:
    command = [sys.executable, "-c", BLOCK, module, *words]
    done = subprocess.run(command, cwd=speakers.parent, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == status
    assert done.stderr.startswith(f"farvox {words[0]}: the package '{module}' ")
    assert done.stderr.endswith(f"{install}\n")


def test_the_extra_that_brings_least_is_named_and_a_module_of_nobody_is_a_fault() -> None:
    for module, install in [
        ("torch", "'farvox[torch]'"),
        ("onnxruntime.capi", "'farvox[onnx]'"),
        ("silero_vad", "'farvox[vad]'"),
        ("nara_wpe", "'farvox[wpe]'"),
        ("fsspec", "'farvox[s3]'"),
        ("matplotlib.pyplot", "matplotlib"),
        ("tomli_w", "tomli-w"),
    ]:
        assert str(missing_package(module)).endswith(f"pip install {install}")
    assert missing_package("farvox.nothing") is None
    assert missing_package("nothing") is None


def test_a_checkout_that_was_never_installed_names_the_package_too(speakers: Path) -> None:
    source = Path(farvox.__file__).parents[1]
    program = f"import sys; sys.path.insert(0, {str(source)!r})\n" + BLOCK.replace("sys.argv.pop(1)", "''")
    command = [sys.executable, "-I", "-S", "-c", program, "check", str(speakers)]  # -S: no site-packages
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and re.fullmatch(
        r"farvox check: the package '(\w+)' is not installed: pip install \1\n", done.stderr
    ), done.stderr


def third_party_imports() -> set[tuple[str, str]]:
    """(package, file) of what functions import, and (package, "") of what files import at once."""
    found = set()
    source = Path(farvox.__file__).parent

    def visit(node: ast.AST, path: Path, where: str) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.FunctionDef | ast.Try):
            where = str(path.relative_to(source))
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS:
            names = [word.value for word in node.args[:1] if isinstance(word, ast.Constant)]
        packages = {name.split(".")[0] for name in names}
        found.update((name, where) for name in packages - sys.stdlib_module_names - {"farvox", "__future__"})
        for child in ast.iter_child_nodes(node):
            visit(child, path, where)

    for path in sorted(source.rglob("*.py")):
        visit(ast.parse(path.read_text()), path, "")
    return found


IMPORTERS = ("import_module", "import_extra", "_require", "is_installed", "find_spec")
"""Functions whose first argument is the module that they import or look for."""


@dataclass(frozen=True)
class Without:
    """Commands where a package is missing."""

    needs: dict[str, str]
    """File that imports it, or "" for those that do at once: a command that needs it."""
    names: str = ""
    """What the message calls it, where that is another word."""
    goes_on: list[str] = field(default_factory=lambda: ["--version"])
    """Commands that do not need it."""


VERIFY, SMALL = "verify a0.wav a1.wav --model model", "verify a0.wav a1.wav --model small.onnx"
SCORE, EXPORT = "score dev/trials emb --out again", "export model again.onnx"
TRAIN, WAVLM = "train recipe.toml --run-dir exp", "train wavlm.toml --run-dir wavlm-exp --model.wavlm"
BY_TORCH = "extract model dev again --backend torch --device cpu"
SERVE = "serve --model small.onnx --store s.sqlite"
ENROL = "enrol ann a0.wav --model small.onnx --store s.sqlite"
WITHOUT = {
    "av": Without({"audio/files.py": "verify a.m4a a1.wav --model model"}, goes_on=[VERIFY]),
    "cryptography": Without({"verifier/vault.py": ENROL}, goes_on=[VERIFY, SMALL]),
    "fastapi": Without({"": SERVE}, goes_on=[VERIFY, ENROL]),
    "fsspec": Without({"audio/remote.py": "verify s3://bucket/a.wav a1.wav --model model"}, goes_on=[VERIFY]),
    "h11": Without({"": SERVE}, goes_on=[VERIFY]),
    "huggingface_hub": Without({"models/wavlm.py": f"{WAVLM} org/name"}, goes_on=[VERIFY]),
    "keyring": Without({"verifier/vault.py": ""}, goes_on=[VERIFY, ENROL]),
    "matplotlib": Without(
        {"": "evaluate dev/trials scores --plot det.png"}, goes_on=["evaluate dev/trials scores"]
    ),
    "nara_wpe": Without(
        {"farfield/enhance.py": "enhance dev out --wpe --group '.*_(?P<channel>.)' --tolerance 1 --jobs 1"},
        goes_on=[VERIFY],
    ),
    "numpy": Without(
        {"": VERIFY, "zoo/unpickle.py": "", "pipelines/adapt.py": "adapt --speech dev --out new"}
    ),
    "onnxruntime": Without(
        {"zoo/onnx_backend.py": SMALL, "zoo/export.py": EXPORT, "zoo/find.py": "", "audio/speech.py": ""},
        goes_on=[VERIFY, BY_TORCH],
    ),
    "openvino": Without(
        {"zoo/openvino_backend.py": "extract small.onnx dev again --backend openvino"}, goes_on=[SMALL]
    ),
    "pebble": Without({"": SERVE}, goes_on=[VERIFY]),
    "pip": Without({"zoo/pretrained.py": ""}, goes_on=["models"]),
    "platformdirs": Without({"": ENROL}),
    "polars": Without({"": "check dev", "pipelines/score.py": SCORE}, goes_on=[VERIFY, SMALL]),
    "prometheus_client": Without({"": SERVE}, goes_on=[VERIFY]),
    "pyroomacoustics": Without({"farfield/rooms.py": "rirs rooms --jobs 1"}, goes_on=["check dev"]),
    "rich": Without({"progress.py": ""}, goes_on=["check dev", SMALL]),
    "safetensors": Without({"zoo/model.py": EXPORT, "manifest.py": f"{WAVLM} wavlm"}, goes_on=[SMALL, SCORE]),
    "scipy": Without(
        {
            "": "cluster emb again",
            "pipelines/evaluate.py": "evaluate dev/trials scores --intervals --speaker-before _ --plot d.png",
        },
        goes_on=[VERIFY, SCORE],
    ),
    "silero_vad": Without({"audio/speech.py": ""}, goes_on=[VERIFY, SMALL]),
    "ray": Without({"ray_engine.py": "check dev --audio --engine ray"}, goes_on=["check dev"]),
    "sounddevice": Without(
        {"verifier/sources.py": "listen a0.wav --model small.onnx --vad off"}, goes_on=[VERIFY]
    ),
    "soundfile": Without({"": VERIFY}),
    "soxr": Without({"": VERIFY}, goes_on=[SCORE]),
    "starlette": Without({"": SERVE}, goes_on=[VERIFY]),
    "tensorboard": Without(
        {"training/log.py": f"{TRAIN} --log.tensorboard true"}, names="TensorBoard", goes_on=[SCORE]
    ),
    "tomli_w": Without({"": TRAIN}, names="tomli-w", goes_on=[VERIFY]),
    "torch": Without(
        {
            "": TRAIN,
            "cli/models.py": EXPORT,
            "features/specaugment.py": TRAIN,
            "machine.py": TRAIN,
            "pipelines/finish.py": "",
            "training/log.py": TRAIN,
            "zoo/find.py": "average out model model",
            "zoo/model.py": BY_TORCH,
            "zoo/torch_backend.py": BY_TORCH,
            "zoo/foreign.py": "import weights.pt out --arch speechbrain-ecapa",
            "zoo/unpickle.py": "",
        },
        goes_on=["models", SMALL, SCORE],
    ),
    "transformers": Without({"models/wavlm.py": f"{WAVLM} wavlm"}, goes_on=["models", VERIFY]),
    "tyro": Without({"": "check dev"}),
    "uvicorn": Without({"": SERVE}, goes_on=[VERIFY]),
}


def test_every_package_that_is_imported_has_a_case_here() -> None:
    cases = {(package, file) for package, case in WITHOUT.items() for file in case.needs}
    assert third_party_imports() | {("tensorboard", "training/log.py")} == cases  # which torch imports


@pytest.fixture(scope="module")
def with_all_files(tmp_path_factory, corpus, voices, model_folder, exported, tiny_recipe):  # type: ignore
    """A folder with whatever the commands of `WITHOUT` name."""
    folder = tmp_path_factory.mktemp("without")
    for name, target in (
        ("dev", corpus / "dev"),
        ("model", model_folder),
        ("small.onnx", exported),
        ("a0.wav", voices / "a0.wav"),
        ("a1.wav", voices / "a1.wav"),
    ):
        (folder / name).symlink_to(target)
    (folder / "recipe.toml").write_text(tomli_w.dumps(tiny_recipe))
    wavlm = tiny_recipe | {"model": {"name": "wavlm-ecapa"}, "features": {"kind": "waveform"}}
    (folder / "wavlm.toml").write_text(tomli_w.dumps(wavlm))
    (folder / "wavlm").mkdir()
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    (folder / "wavlm/config.json").write_text(json.dumps({"model_type": "wavlm", **sizes}))
    (folder / "wavlm/model.safetensors").write_bytes(b"")
    (folder / "a.m4a").write_bytes(bytes(100))
    at_start = [[*FARVOX, *shlex.split(command)] for command in (VERIFY, "extract model dev emb", SCORE)]
    at_start[-1][-1] = "scores"
    for command in at_start:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


ALL_COMMANDS = BLOCK.replace(
    "sys.exit(main())",
    """
import contextlib, io, json, shlex, traceback
for line in sys.stdin:
    with contextlib.redirect_stderr(io.StringIO()) as printed, contextlib.redirect_stdout(sys.stderr):
        try:
            status = main(shlex.split(line))
        except BaseException:
            traceback.print_exc()
            status = -1
    print(json.dumps([status, printed.getvalue()]))
""",
)
"""Program that runs the commands of its standard input one after the other."""


@pytest.mark.slow
@pytest.mark.parametrize("package", WITHOUT)
def test_without_a_package_what_needs_it_names_it_and_all_else_goes_on(
    package: str, with_all_files: Path, tmp_path: Path
) -> None:
    case = WITHOUT[package]
    for path in with_all_files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    needs = [command for command in dict.fromkeys(case.needs.values()) if command]
    done = subprocess.run(
        [sys.executable, "-c", ALL_COMMANDS, package],
        cwd=tmp_path,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
        },  # with it, one job needs no process, which has all packages
        capture_output=True,
        text=True,
        input="\n".join([*case.goes_on, *needs]),
    )
    results = dict(zip([*case.goes_on, *needs], map(json.loads, done.stdout.splitlines()), strict=True))
    for command in case.goes_on:
        assert results[command][0] == 0, results[command][1]
    for command in needs:
        status, printed = results[command]
        assert status in (1, 2) and "Traceback" not in printed, printed
        message = printed.splitlines()[-1]
        assert message.startswith(f"farvox {command.split()[0]}: ") and "pip install " in message, printed
        assert (case.names or package) in message, printed


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of every kind that somebody may have."""
    monkeypatch.chdir(tmp_path)
    write_audio("x.wav", np.full(1600, 0.1))
    utterances = [Utterance(f"{s}-{n}", str(tmp_path / "x.wav"), s) for s in "AB" for n in (1, 2)]
    write_data_dir("D", utterances)
    EmbeddingSet(["A-1", "A-2", "B-1"], np.eye(3, 4, dtype=np.float32)).save("E")
    Path("T").write_text("A-1 A-2 target\nA-1 B-1 nontarget\n")
    Path("notes.txt").write_text("Ann 1\n")
    Path("photo.png").write_bytes(b"\xff\xd8\xff\xe0 JPEG")
    Path("page.html").write_text("<!doctype html>\n<title>Home</title>\n<svg></svg>\n")
    np.save("numbers.npy", np.arange(3.0))
    return tmp_path


WRITERS = {
    "trials": "trials D OUT",
    "score": "score T E --out OUT",
    "out-trials": "score T E --channels expand --out new --out-trials OUT",
    "plot": "evaluate T S --plot OUT",
    "report": "evaluate T S --report OUT",
    "tables": "evaluate T S --tables OUT",
    "submit": "submit T S OUT",
    "onnx": "export model OUT",
    "ffsvc": "export model OUT --to ffsvc",
    "embeddings": "export E OUT --to ffsvc",
    "cluster": "cluster E clusters --clusters 2 --plot OUT",
}
"""Every verb with a file that it writes."""
SUFFIXES = {
    "plot": ".png", "report": ".html", "tables": ".md", "submit": ".txt", "onnx": ".onnx", "ffsvc": ".pkl",
    "embeddings": ".npy", "cluster": ".svg",
}  # fmt: skip


@pytest.mark.parametrize(
    "other", ["x.wav", "D/wav.scp", "D/utt2spk", "notes.txt", "page.html", "numbers.npy"]
)
@pytest.mark.parametrize("writer", WRITERS)
def test_no_verb_replaces_a_file_of_another_kind(
    desk: Path, writer: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also through a link, under the name that the verb asks for; and no input is looked at before."""
    before = Path(other).read_bytes()
    out = f"link{SUFFIXES.get(writer, '')}"
    Path(out).symlink_to(other)
    if writer not in ("ffsvc", "embeddings", "out-trials"):
        shutil.move("T", "moved")  # what is at fault later is not reached
        Path("T").write_text("no list\n")
    if writer != "ffsvc":  # which needs a model to know its files
        assert main(WRITERS[writer].replace("OUT", out).split()) == 1
        assert f"{out} (a link to {desk / other}): is no " in capsys.readouterr().err
    assert Path(other).read_bytes() == before and Path(out).is_symlink()


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("score T E --out T", "T"),
        ("score T E --out link", "link"),
        ("score T E --channels expand --out S --out-trials T", "T"),
        ("score T E --channels expand --out S --out-trials hard", "hard"),
        ("score T E --out S --enrol-map map", "S"),
        ("evaluate T S.txt --plot S.png", "S.png"),
        ("submit T S.txt S.txt", "S.txt"),
        ("trials D D", "D"),
    ],
)
def test_no_verb_replaces_its_own_input(
    desk: Path, command: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("link").symlink_to("T")
    Path("hard").hardlink_to("T")
    Path("S.txt").write_text("A-1 A-2 0.5\nA-1 B-1 0.25\n")
    Path("map").symlink_to("S")
    Path("S.png").symlink_to("S.txt")
    Path("S").write_text("A-1 A-1 0.5\n")
    before = {path: path.read_bytes() for path in sorted(desk.rglob("*")) if path.is_file()}
    assert main(command.split()) in (1, 2)
    assert out in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted(desk.rglob("*")) if path.is_file()} == before


def test_what_a_verb_wrote_it_writes_again(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        for command in (
            "trials D made",
            "score made E2 --out S",
            "score T E --channels expand --out S2 --out-trials T2",
            "evaluate T S2 --plot det.png --report page2.html",
            "evaluate T S2 --plot det.svg --report pages",
            "submit T S2 sub.zip",
            "submit T S2 sub.txt",
            "export E e.npy --to ffsvc",
        ):
            EmbeddingSet(["A-1", "A-2", "B-1", "B-2"], np.eye(4, dtype=np.float32)).save("E2")
            assert main(command.split()) == 0, (command, capsys.readouterr().err)
    Path("list").write_text("A-1 A-2\nA-1 B-1\n")
    unlabelled = "score list E --channels expand --out S3 --out-trials list2"
    assert [main(unlabelled.split()) for _ in range(2)] == [0, 0]
    for own in ("results.json", "det.png"):
        Path("pages", own).write_bytes(b'{"eer": 1}')
        assert main(["evaluate", "T", "S2", "--report", "pages"]) == 1
        assert f"pages/{own}: is no " in capsys.readouterr().err
        Path("pages", own).unlink()
    assert main(["score", "T", "E", "--channels", "expand", "--out", "S2", "--out-trials", "S2"]) == 2
    Path("S4.meta.json").write_text('{"title": "mine"}')
    assert main(["score", "T", "E", "--out", "S4"]) == 1 and not Path("S4").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["import", "a", "b", "--arch"],
        ["cluster", "a", "b", "--method"],
        ["pack", "a", "b", "--codec"],
        ["evaluate", "a", "b", "--threshold"],
        ["recipes", "demo"],
        ["extract", "a", "b", "c", "d"],
    ],
)
def test_a_wrong_word_is_shown_without_its_control_characters(words, capfd):
    assert main([*words, "\x1b[31mred\x1b]0;title\a"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "red" in err
    assert "\x1b" not in err and "\a" not in err


@pytest.mark.parametrize(
    "words",
    [
        ["extract", "m", "d", "o", "--threads", "-1"],
        ["pack", "d", "o", "--shard-size", "1e308"],
        ["pack", "d", "o", "--shard-size", "1e-300"],
        ["pack", "d", "o", "--shard-size", "nan"],
    ],
)
def test_a_number_out_of_bounds_is_wrong_usage(words, capfd):
    assert main(words) == 2
    assert words[-2].strip("-").replace("-", "_") in capfd.readouterr().err.replace("-", "_")


@pytest.mark.parametrize("words", [["recipes"], ["train", "nosuch"]])
def test_a_rank_ends_with_the_words_and_the_status_of_any_process(words, monkeypatch):
    command = [sys.executable, "-m", "farvox", *words]
    alone = subprocess.run(command, capture_output=True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    rank = subprocess.run(command, capture_output=True)
    assert (rank.returncode, rank.stdout, rank.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert rank.stdout or rank.stderr


def test_a_file_that_finds_no_memory_to_be_mapped_is_told_as_out_of_memory(monkeypatch, capsys):
    def mapped(words):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")  # as mmap does, without the name of a file

    monkeypatch.setattr("farvox.cli.main._dispatch", mapped)
    assert main(["check", "data"]) == 1
    assert "out of memory ([Errno 12] Cannot allocate memory); give fewer --jobs" in capsys.readouterr().err
