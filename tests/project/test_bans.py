"""What is found nowhere in the code."""

import ast
import re
import sys
from collections.abc import Iterator

import pytest

BANNED_PACKAGES = {"torchaudio", "torchcodec", "sox", "pysox", "dill", "joblib", "cloudpickle"}
PICKLES = {"pickle", "shelve", "marshal"}


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; None when it is not given or not constant."""
    values = [each.value for each in call.keywords if each.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_what_does_not_load_beside_a_cpu_torch_is_never_imported(sources):
    found = [(s.name, line, name) for s in sources for line, name in s.imports()]
    assert [each for each in found if each[2].split(".")[0] in BANNED_PACKAGES] == []


OF_NO_KIND = {
    "audio.files:write_audio",  # in folders of verbs that were begun with the same settings
    "datadir.pack:__call__",  # a shard, named by its content
    "farfield.rirs:_written",  # as `write_audio`
    "jobs:_write_result",  # of a batch
    "training.checkpoint:compare_audio",  # of a run dir
    "zoo.export:export_onnx",  # also a graph that is kept in a model folder, and may be damaged
    "zoo.model:write_weights",  # of a model folder
}


def test_a_verb_that_writes_a_file_says_what_kind_of_file_it_may_replace(sources):
    found = set()
    for source in sources:
        functions = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)]
        for call, name in calls(source.tree):
            if name == "atomic_file" and len(call.args) == 1 and not call.keywords:
                inside = [f for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
                found.add(f"{source.name}:{inside[-1].name}")
    assert found == OF_NO_KIND


def test_pickles_are_read_by_one_module_which_runs_apart(sources):
    found = {
        source.name for source in sources for line, name in source.imports() if name.split(".")[0] in PICKLES
    }
    assert found == {"zoo.unpickle"}
    found = [
        f"{source.name}:{call.lineno}"
        for source in sources
        for call, name in calls(source.tree)
        if name == "torch.load" or (source.package != "zoo" and keyword(call, "allow_pickle") is True)
    ]
    assert found == []


FOLDERS = {"begin", "atomic_dir", "atomic_update", "write_data_dir", "put_in_place"}
UNDER_ANOTHER = {
    "atomic:atomic_dir",  # `put_in_place`
    "atomic:atomic_update",
    "cache:cached_folder",  # asks by itself
    "clustering.cluster:write_labels",  # of `cluster` and `selftrain`
    "corpora.across:_written",  # of `prepare`
    "corpora.across:prepare_across",
    "corpora.farfield:prepare_farfield",
    "datadir.derive:_write_derived",  # of `combine` and `subset`
    "datadir.derive:write_output",  # of `simulate`, `make_rirs` and `make_noises`
    "datadir.pack:_write_dir",  # of `pack`
    "datadir.stores:_fetch",  # `fetched` and `staged` ask
    "jobs:own",  # in the folder of the shards of an output; whatever writes that asks
    "pipelines.adapt:split_files",  # `adapt`
    "synthetic.corpus:prepare_synthetic",  # likewise
    "synthetic.noise:prepare_noise",  # likewise
    "training.checkpoint:save_checkpoint",  # of `train`
    "zoo.pretrained:pull",  # asks by itself
}


def test_whatever_writes_a_folder_is_its_only_writer(sources):
    found = set()
    for source in sources:
        functions = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)]
        for call, name in calls(source.tree):
            inside = [f for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
            declared = [ast.unparse(each) for function in inside for each in function.decorator_list]
            if name in FOLDERS and not any(each.startswith("writes(") for each in declared):
                found.add(f"{source.name}:{inside[-1].name}")
    assert found == UNDER_ANOTHER


SEARCHES = {"iterdir", "glob", "rglob", "walk", "listdir", "scandir"}
FOR_THEMSELVES = {
    "atomic",  # has `visible`; and what is not finished, which is hidden
    "corpora.parts",  # `walk`
    "datadir.audit",  # hidden files of a check that is not done
    "pipelines.run",  # the state of folders that verbs read
    "training.checkpoint",  # by a pattern that begins no hidden name
}


def test_folders_are_searched_by_what_sees_no_hidden_files(sources):
    found = {
        source.name
        for source in sources
        for call, name in calls(source.tree)
        if name.rpartition(".")[2] in SEARCHES and name != "walk" and not name.startswith("ast.")
    }
    assert found <= FOR_THEMSELVES


def test_the_process_that_reads_pickles_imports_only_python(sources):
    (source,) = (each for each in sources if each.name == "zoo.unpickle")
    named = {
        name
        for node in source.tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
        )
    }
    assert {name.split(".")[0] for name in named} <= sys.stdlib_module_names


def test_no_text_becomes_code(sources):
    banned = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "pickle.load", "pickle.loads"}
    found = [
        f"{source.name}:{call.lineno}: {name}"
        for source in sources
        for call, name in calls(source.tree)
        if name in banned or keyword(call, "shell") is True
    ]
    assert found == []


def test_json_toml_and_arrays_are_read_in_one_place(sources):
    # the libraries' own readers let other errors out, and build what the file asks for
    readers = {"json.load", "json.loads", "tomllib.load", "tomllib.loads", "np.load"}
    found = [
        f"{source.name}:{call.lineno}"
        for source in sources
        for call, name in calls(source.tree)
        if name in readers
        and source.name != "parsing"
        and not ast.unparse(call).startswith("json.loads(json")
    ]
    assert found == []


def test_sox_is_never_called(sources):
    found = [
        f"{source.name}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.match(r"sox( |$)", node.value)
    ]
    assert found == []


@pytest.mark.parametrize("word", ["NotImplementedError", "TODO", "FIXME", "XXX"])
def test_nothing_is_left_for_later(sources, word):
    found = [
        f"{source.name}:{number}"
        for source in sources
        for number, line in enumerate(source.text.splitlines(), 1)
        if word in line
    ]
    assert found == []


def test_errors_are_never_swallowed_whole(sources):
    def is_passed_on(node):  # raised again, or handed to another thread, which raises it
        return isinstance(node, ast.Raise) or (
            isinstance(node, ast.Attribute) and node.attr == "set_exception"
        )

    found = [
        f"{source.name}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(is_passed_on(inner) for inner in ast.walk(node))
    ]
    assert found == []


def test_everything_that_is_printed_passes_through_one_function(sources):
    # ids and paths may hold escape sequences; log.py prints into files
    found = [
        f"{source.name}:{call.lineno}"
        for source in sources
        for call, name in calls(source.tree)
        if name == "print" and source.name not in ("progress", "training.log")
    ]
    assert found == []
