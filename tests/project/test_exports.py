"""The names that others may rely on, and what the command costs before it does anything."""

import importlib
import inspect
import resource
import subprocess
import sys

import pytest

import farvox

PUBLIC = {
    "farvox": ["Verdict", "Verifier", "__version__"],
    "farvox.augment": ["AugmentOptions", "Augmenter", "build_augmenter"],
    "farvox.verifier": [
        "AudioArgument", "Channel", "Enrolled", "Enrolment", "Identification", "CodedNote", "Listener",
        "Look", "Signal",
        "SpeakerStore", "SqliteStore", "Verdict", "Verifier", "default_store_path", "read_signal",
    ],
    "farvox.zoo": [
        "DEFAULT_MODEL", "LAYOUTS", "Calibration", "Card", "Embedder", "Figure", "Model", "TorchEmbedder",
        "average_models", "copy_with_card", "export_checkpoint", "export_embeddings", "find_model",
        "import_checkpoint", "import_embeddings", "load_model", "open_embedder", "pull", "read_card",
        "save_model", "zoo_models",
    ],
}  # fmt: skip


@pytest.mark.parametrize("package", PUBLIC)
def test_the_exported_names_are_these(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package])
    assert all(hasattr(module, name) for name in module.__all__)


def test_every_list_of_exported_names_is_watched_here(sources):
    listing = {
        f"farvox.{source.name}".removesuffix(".__init__")
        for source in sources
        if "\n__all__ = " in source.text
    }
    assert listing == set(PUBLIC)


def test_the_version_is_the_one_that_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "farvox", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"farvox {farvox.__version__}\n"


def test_help_takes_less_than_a_third_of_a_second():
    """Of the processor: what else the machine does changes nothing."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "farvox", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


def test_help_imports_nothing_that_is_large():
    large = ("torch", "numpy", "polars", "scipy", "tyro", "soundfile", "onnxruntime", "matplotlib")
    script = (
        "import sys\nfrom farvox.cli.main import main\nmain(['--help'])\n"
        f"sys.exit(' '.join(name for name in {large} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["prepare", "--help"], ["check", "--help"], ["trials", "--help"], ["recipes"],
     ["score", "--help"], ["evaluate", "--help"], ["run", "--help"], ["train", "--help"],
     ["extract", "--help"], ["import", "--help"], ["verify", "--help"], ["speakers"], ["pull", "--help"],
     ["models", "campplus-zh-en"], ["cluster", "--help"], ["calibrate", "--help"], ["export", "--help"]],
    ids=" ".join,
)  # fmt: skip
def test_nobody_pays_for_torch_before_it_is_used(words):
    script = (
        "import sys\nfrom farvox.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_function_says_what_it_does(sources):
    import ast

    silent = [
        f"{source.name}.{node.name}"
        for source in sources
        for node in source.tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


STAGES = {
    "calibrate": "(scores: Scores, options: CalibrateOptions, *, note) -> Calibrated",
    "cluster": "(embeddings: str | Path, out: str | Path, options: ClusterOptions, *, data, truth, seed, "
    "plot, note) -> dict[str, Any]",
    "evaluate": "(scores: Scores, options: EvaluateOptions) -> Evaluation",
    "extract": "(embedder: Embedder, data_dir: DataDir, *, threads, quality, skip_bad, skip_by, channel, "
    "out, replace, part_rows, note) -> EmbeddingSet",
    "fuse": "(systems: Mapping[str, Scores], options: FuseOptions, *, note) -> Fusion",
    "run": "(recipe: Recipe, root: str | Path, *, first, last, note, progress, run_verb) -> None",
    "score": "(trials: str | Path, embeddings: str | Path | Sequence[str | Path], options: ScoreOptions, *, "
    "out, out_trials, trained, note) -> Scores",
    "selftrain": "(recipe: Recipe, root: str | Path, *, note, progress, run_verb) -> str",
    "train": "(options: TrainOptions, run_dir: str | Path, *, resume, note) -> Path",
}
"""The function of each stage, by its module of `farvox.pipelines`; keyword arguments by their names."""


@pytest.mark.parametrize("stage", STAGES)
def test_the_function_of_a_stage_has_this_signature(stage):
    function = getattr(importlib.import_module(f"farvox.pipelines.{stage}"), stage)
    signature = inspect.signature(function)
    positional, keywords = [], []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.default is not parameter.empty, f"{name} has no default"
            keywords.append(name)
        else:
            positional.append(f"{name}: {parameter.annotation}")
    shown = ", ".join([*positional, *(["*"] if keywords else []), *keywords])
    assert f"({shown}) -> {signature.return_annotation}" == STAGES[stage]
    assert "Args:" in function.__doc__ or "Raises:" in function.__doc__
