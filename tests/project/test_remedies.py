"""Every verb, option, recipe key, extra and variable that a message names is there, and every remedy is run.

What is looked at are the strings of the code with a blank in them, docstrings and help aside: a remedy lies
as often in a constant or beside the error as in the ``raise`` itself. The remedies are run by
``tests/cli/test_remedies.py``, and some by the tests of ``ELSEWHERE``.
"""

import ast
import io
import re
import runpy
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, fields
from functools import cache

import pytest

from farvox.cli.main import LESS_MEMORY, VERBS, main
from farvox.options import described
from farvox.pipelines.recipe import Recipe

EXAMPLES = {
    "VERB",
    "--version",
    "field.name",
    "paths.wavlm",
    "--head",
}  # stand for any of their kind, or are of no verb
SHAPES = {"str", "samples", "dimension"}  # in brackets, and no tables
LANGUAGES = re.compile(
    r"(SELECT|INSERT|DELETE|CREATE|UPDATE|WHERE) |\s*:root|<div "
)  # SQL, CSS, HTML: no messages
RECIPES = ("train", "run", "selftrain")
VERBS_OF = {
    "corpora": ("prepare", "adapt"),
    "synthetic": ("prepare", *RECIPES),
    "verifier": ("verify", "listen", "enrol", "identify", "forget", "speakers", "sweep", "rekey"),
    "service": ("serve",),
    "farfield.takes": ("enhance",),
    "farfield.enhance": ("enhance",),
    "farfield.noises": ("noises",),
    "datadir.derive": ("combine", "subset", "trials"),
    "datadir.pack": ("pack",),
    "pipelines.calibrate": ("calibrate", "verify"),
    "pipelines.fuse": ("fuse",),
    "pipelines.enhance": ("enhance",),
    "pipelines.evaluate": ("evaluate",),
    "pipelines.run": RECIPES,
    "pipelines.score": ("score",),
    "score": ("score", "evaluate"),
    "training": (*RECIPES, "import"),
    "zoo.foreign": ("import",),
}
"""Modules whose messages only some verbs print, by the start of their name; those of the others, any may."""


@dataclass(frozen=True)
class Text:
    """A string of the code; what is put into it when it is printed stands as ``{}``."""

    module: str
    line: int
    function: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.text!r}"

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs that can print it, as far as its place tells."""
        own = [
            verb for verb, (where, *_) in VERBS.items() if where == f"farvox.{self.module}:{self.function}"
        ]
        starts = [verbs for start, verbs in VERBS_OF.items() if f"{self.module}.".startswith(f"{start}.")]
        return tuple(own) or next(iter(starts), tuple(VERBS))


def texts(module: str, tree: ast.Module) -> Iterator[Text]:
    spare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    names = {
        id(node): function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in spare:
            continue
        if isinstance(node, ast.JoinedStr):
            spare |= {id(part) for part in node.values if isinstance(part, ast.Constant)}
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [node.value]
        else:
            continue
        text = "".join(parts)
        if " " in text and not LANGUAGES.match(text):
            yield Text(module, node.lineno, names.get(id(node), ""), text)


@pytest.fixture(scope="module")
def messages(sources) -> list[Text]:
    return [text for source in sources for text in texts(source.name, source.tree)]


@cache
def options_of(verb: str) -> frozenset[str]:
    """The options in the help of a verb, without the fields of a recipe."""
    help_text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(help_text), suppress(SystemExit):
        patch.setenv("COLUMNS", "200")
        main([verb, "--help"])
    return frozenset(OPTION.findall(help_text.getvalue().split("fields of a recipe")[0]))


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*(?![\w.-])")
COMMAND = re.compile(r"(?:['`(]|: |run )farvox ([\w{}]+)((?: [^'`)\n]*)?)")
KEYS = [name.replace("[[", "").replace("]] ", ".").replace("]]", "") for name, _, _ in described(Recipe)]
SECTIONS = {field.name for field in fields(Recipe)}


def keys_in(text: str) -> Iterator[str]:
    """The keys of a recipe that a text names: section.key, [section], [section] key, 'key' of [section]."""
    files = r"(?!(?:safetensors|txt|tsv|json|toml)\b)"
    for section, key in re.findall(rf"(?<![\w./{{])([a-z]+)\.{files}([a-z_]+)(?![\w(])", text):
        if section in SECTIONS:
            yield f"{section}.{key}"
    for section, key in re.findall(r"\[\[?([a-z]+)\]\]?(?: ([a-z_]+) =)?", text):
        if not re.search(rf"farvox\[{section}\]", text):
            yield f"{section}.{key}" if key else section
    for key, section in re.findall(r"'(\w+)' of \[+([a-z]+)\]", text):
        yield f"{section}.{key}"
    yield from re.findall(r"--([a-z_]+\.[a-z_.]+[a-z_])", text)


def test_the_verbs_and_options_of_a_command_in_a_message_exist(messages):
    wrong, seen = [], 0
    for message in messages:
        for verb, rest in COMMAND.findall(message.text):
            if verb in EXAMPLES or verb == "{}":
                continue
            seen += 1
            if verb not in VERBS or set(OPTION.findall(rest)) - options_of(verb):
                wrong.append(str(message))
    assert seen > 20 and wrong == []


def test_an_option_that_a_message_names_is_one_of_a_verb_that_prints_it(messages):
    found = [
        (message, option) for message in messages for option in OPTION.findall(COMMAND.sub("", message.text))
    ]
    wrong = [
        f"{option}: {message}"
        for message, option in found
        if option not in EXAMPLES and not any(option in options_of(verb) for verb in message.verbs)
    ]
    assert len(found) > 50 and wrong == []


def test_a_recipe_key_that_a_message_names_exists(messages):
    known = {*KEYS, *SECTIONS, *EXAMPLES, *SHAPES}
    found = [(message, key) for message in messages for key in keys_in(message.text)]
    wrong = [f"{key}: {message}" for message, key in found if key not in known]
    assert len(found) > 50 and wrong == []


def test_an_extra_that_a_message_names_exists(messages, root):
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = [extra for message in messages for extra in re.findall(r"farvox\[([^\]]+)\]", message.text)]
    assert len(found) > 8 and set(found) <= extras.keys()


def test_a_variable_that_a_message_names_is_read(messages, sources):
    named = {name for message in messages for name in re.findall(r"FARVOX_[A-Z_]+", message.text)}
    read = {
        node.args[0].value
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "os.environ.get"
        and isinstance(node.args[0], ast.Constant)
    }
    assert named and named <= read


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("'farvox extrac DIR' makes one", "verb"),
        ("run 'farvox extract --trials T'", "option"),
        ("lower optim.learning_rate", "key"),
        ("set 'speed' of [data]", "key"),
    ],
)
def test_a_remedy_that_is_not_there_is_found(text, wrong):
    verbs = COMMAND.findall(text)
    faults = {
        "verb": any(verb not in VERBS for verb, _ in verbs),
        "option": any(set(OPTION.findall(rest)) - options_of(verb) for verb, rest in verbs if verb in VERBS),
        "key": any(key not in {*KEYS, *SECTIONS} for key in keys_in(text)),
    }
    assert [name for name, fault in faults.items() if fault] == [wrong]


VERBS_OF_REMEDIES = (
    "add|ask|bring|calibrate|call|check|choose|close|combine|complete|convert|copy|correct|cut|delete|draw|empty"
    "|enrol|enter|export|extract|fetch|forget|free|get|give|import|install|keep|leave|look|lower|make|measure"
    "|mend|move|name|pass|prepare|pull|put|raise|record|reduce|remove|rename|repair|repeat|replace|run|say|score"
    "|see|select|set|split|start|switch|take|train|try|turn|unpack|update|use|wait|widen|write"
)
REMEDY = re.compile(
    rf"(?:^|[;:,.] |\(|\bor |\band |\bthen |\bso |\bto \w+, )(?:{VERBS_OF_REMEDIES})\b(?!:)"
    r"|: [a-z]+\.[a-z_]+ =|'farvox |`|(?<![\w-])--[a-z]|pip |FARVOX_|\bfarvox (?:[a-z]+ [A-Z]|[a-z]+ --)",
    re.IGNORECASE,
)
"""Words that tell somebody to do something, and names of what is typed."""


def named_remedies(messages: list[Text]) -> list[Text]:
    """The messages that name a remedy; summaries of verbs and of corpora are none."""
    summaries = {text for _, *texts in VERBS.values() for text in texts}
    return [
        message
        for message in messages
        if REMEDY.search(message.text)
        and message.text not in summaries
        and not (message.module.startswith("corpora.") and not message.function)
    ]


NO_REMEDIES = (
    "--token-file {}: cannot be read: {}",
    "see the log of the service",
    "--host {} --port {}: {}",
    " --audio",
    "the same as --data.max_rejects",
    "Lower left is better",
    "--jobs[ =]1",
    "rirs $data/rooms/sized --measured",
    "rirs $data/rooms/test --measured",
    " --sizes ",
    " --measured ",
    "--threads[ =]1",
    "start {} and num_samples {} count from 0",
    "'farvox VERB --help' explains a verb",
    "start here",
    "'farvox --help' lists the verbs",
    "'{} --help' explains its options",
    "pretrained models (farvox pull NAME",
    "Train or fine-tune a model from a recipe. A run dir",
    "Rounds of: extract the unlabelled speech",
    "start N processes on this machine",
    "a TOML file, or a name that 'farvox recipes' lists",
    "Run the stages of a recipe: {}",
    "ENROL... TEST",
    "score file",
    "score        {}   threshold {}",
    "score        {}, of all {} s",
    "{}: score {}, threshold {}",
    "{}: score {}, threshold {}, {}",
    " for --band narrow",
    "prepare: 'farvox {}' failed",
    "a label was not given to `draw`",
    "empty line",
    "FARVOX_BACKEND: ",
    "  pip download {}",
    "pip download ended with status",
    "pip brought {} wheels instead of one",
    "were done by an earlier farvox and are kept",
    "which farvox does not have; '{}' takes {}",
    "as ReDimNet is published; farvox has no ReDimNet",
)
"""Words of messages, and of help, that only read as if they told somebody to do something."""
AUDIT = "tests/datadir/test_audit.py"
SERVICE = "tests/service/test_service.py"
VAULT = "tests/verifier/test_vault.py"
MEMORY = "tests/cli/test_remedies.py::test_what_needs_less_memory_is_enough_under_the_same_limit"
PULL = "tests/zoo/test_pretrained.py::test_what_pull_asks_for_is_enough"
STORES = "tests/datadir/test_stores.py"
ELSEWHERE = {
    "but of another place or another set; where that is meant, remove": (
        "tests/datadir/test_embeddings.py::test_parts_of_another_place_or_set_are_refused"
    ),
    "and the others with --from extract": (
        "tests/cli/test_run.py::test_stages_are_not_run_by_each_of_several_processes"
    ),
    **dict.fromkeys(
        ("accumulation steps{}: set optim.batch_size to", "process(es), which takes the same batches"),
        "tests/cli/test_train.py::test_a_fault_of_one_of_two_processes_is_its_message_and_status_1",
    ),
    "goes on after the last checkpoint; where a stage takes so long, with --wait_minutes": (
        "tests/training/test_elastic.py"
        "::test_a_rank_that_stands_still_is_named_and_the_group_goes_on_in_the_same_bits"
    ),
    **dict.fromkeys(
        (
            "is a URL, and a path of this machine is needed here; name that of a copy",
            "this command takes no URL there; copy it",
        ),
        f"{STORES}::test_a_url_that_is_of_no_use_is_refused_and_makes_no_folder",
    ),
    **dict.fromkeys(
        (
            "shards need a folder that all share; give one as OUT, or leave out --shard",
            "is in no object store ({}); copy it, and name the copy",
            "the address, or wait until it is whole",
            "{}: holds other things (none of {}); it is not replaced: choose another name, or empty it first",
        ),
        f"{STORES}::test_foreign_and_missing_places_are_refused",
    ),
    "changes while it is read; start again when it is written": (
        f"{STORES}::test_what_changes_while_it_is_fetched_is_fetched_again"
    ),
    "nobody comes before them to train on": (
        "tests/corpora/test_across.py"
        "::test_settings_are_chosen_in_other_rooms_by_speakers_after_those_trained_on"
    ),
    **dict.fromkeys(
        (
            "--shard and --engine are of --convert; without it",
            "--shard and --engine are of --audio, and not of --fix",
            "nothing of this is done in shards; leave out --shard",
        ),
        "tests/test_sharding.py::test_work_that_has_no_shards_says_so",
    ),
    **dict.fromkeys(
        (
            "has farvox {}, and this machine {}: install the same",
            "OUT (FARVOX_CACHE for one in an object store), under the same paths",
        ),
        "tests/test_ray.py::test_a_machine_with_another_farvox_or_other_files_is_refused",
    ),
    "start one with 'ray start --head', or": (
        "tests/test_ray.py::test_a_cluster_that_does_not_answer_is_named"
    ),
    "and the machine that began by {}: install the same": (
        "tests/test_ray.py::test_a_machine_that_computes_by_another_library_is_refused"
    ),
    **dict.fromkeys(
        (
            "is being made in shards; 'farvox join",
            "start each, unless it is running",
            "; commands with --shard I/N make them",
        ),
        "tests/test_sharding.py::test_missing_and_foreign_shards_are_named",
    ),
    "is done; 'farvox join {}' joins them": "tests/test_sharding.py::test_shards_that_are_joined_are_one_run",
    "it is I/N, shard I of N": "tests/test_sharding.py::test_a_shard_that_is_none_is_refused",
    **dict.fromkeys(
        (
            "--tls-cert and --tls-key go together: give both",
            "others reach this address, so give --token-file",
            "give --tls-cert and --tls-key, or say --behind-proxy where a proxy encrypts them",
        ),
        f"{SERVICE}::test_no_public_address_without_a_token_and_encryption",
    ),
    "this is {}; for a proxy on this machine, say --behind-proxy": (
        "tests/service/test_listening.py::test_streams_leave_room_for_requests_and_end_with_the_service"
    ),
    "a token is 20 characters or more, in ASCII": f"{SERVICE}::test_a_token_that_is_none_is_refused",
    "{} requests are being answered; try again": (
        f"{SERVICE}::test_more_than_are_allowed_are_told_to_come_again_and_a_slow_decoder_is_ended"
    ),
    "set FARVOX_KEYS to where its keys are, bring back a copy of them, or move the store away": (
        f"{VAULT}::test_without_its_keys_a_store_does_not_open"
    ),
    "it is not a file of keys: move it away": f"{VAULT}::test_another_file_as_that_of_the_keys_is_left_alone",
    "is there already, and a copy of the store was to be kept there: move it away": (
        f"{VAULT}::test_a_copy_of_a_store_of_before_is_kept_where_it_is_asked_for"
    ),
    "has plain templates, and 'farvox forget' does not reach it: remove it": (
        f"{VAULT}::test_a_copy_of_a_store_of_before_is_kept_where_it_is_asked_for"
    ),
    "in the keyring of the system, and there is none here, or no package that reads it": (
        f"{VAULT}::test_the_master_key_lies_in_the_keyring_of_the_system_where_there_is_one"
    ),
    "is damaged (zero or not finite); forget and enrol it again": (
        f"{VAULT}::test_a_zero_template_of_a_store_of_before_is_named_and_can_be_forgotten"
    ),
    "is the model there, if it was kept": (
        "tests/training/test_damage.py::test_a_run_with_more_epochs_than_are_asked_for_says_both_numbers"
    ),
    "put the checkpoint of that epoch back, or name another, as RUN_DIR@N": (
        "tests/training/test_damage.py"
        "::test_a_checkpoint_of_another_epoch_is_refused_by_every_reader_of_models"
    ),
    "put back what was there, or copy the checkpoint out of the run dir to use it": (
        "tests/training/test_damage.py"
        "::test_a_checkpoint_of_another_run_is_refused_by_every_reader_of_models_and_named_by_check"
    ),
    **dict.fromkeys(
        ("(by 'farvox check DIR --audio')", "'farvox check {} --audio' looks at these again"),
        f"{AUDIT}::test_training_refuses_audio_that_changed_since_the_check",
    ),
    "check it again with 'farvox check {} --audio'": (
        f"{AUDIT}::test_who_reads_audio_that_changed_since_the_check_says_so"
    ),
    "copy it again; if it was replaced on purpose, remove {}": (
        f"{AUDIT}::test_content_that_differs_from_an_earlier_check_stays_a_fault_until_it_is_as_it_was"
    ),
    "remove it, and 'farvox check --audio' makes it": (
        f"{AUDIT}::test_a_damaged_table_is_named_and_made_anew"
    ),
    "put these files right, and check it again": (
        "tests/training/test_table.py"
        "::test_what_a_check_of_the_audio_found_at_fault_is_left_out_and_the_rest_stays_in_order"
    ),
    **dict.fromkeys(
        (
            "; correct it, or copy the audio again",
            "are no sound; copy it again, or make it anew",
            "not finite (NaN or infinite); make it anew",
        ),
        f"{AUDIT}::test_odd_samples_are_found_noted_or_change_nothing",
    ),
    "farvox check: --digests is of --audio": (f"{AUDIT}::test_digests_are_of_a_check_of_the_audio"),
    **dict.fromkeys(
        ("give two or more of them as FIRST-LAST", "for each side; choose others with --speakers"),
        "tests/corpora/test_farfield.py::test_what_a_list_cannot_be_made_of_is_named",
    ),
    "colour_db is of reverberated speech, and there is none; give rirs": (
        "tests/augment/test_chain.py::test_reverberated_chunks_are_coloured_and_others_are_not"
    ),
    "finish.start is a share of the starting model, and there is none: set init.model": (
        "tests/cli/test_run.py::test_finished_weights_are_mixed_with_the_start_and_centred"
    ),
    " another --out, in your own: 'farvox recipes {} > mine.toml', --recipe mine.toml": (
        "tests/pipelines/test_adapt.py::test_a_key_in_a_message_can_be_set_where_it_says"
    ),
    "by 'farvox run {} --run-dir {} --from": (
        "tests/pipelines/test_adapt.py::test_an_error_of_training_names_what_there_is_here"
    ),
    "a header that names no column of scores: call it LLR, or remove the line": (
        "tests/score/test_scores.py::test_scores_below_a_header_of_nist_are_read_and_another_header_is_explained"
    ),
    "a larger --minutes gives more": (
        "tests/pipelines/test_adapt.py::test_a_bounded_training_keeps_all_its_epochs"
    ),
    "Repair them, or accept that with --max-rejects {}": (
        "tests/corpora/test_folder.py::test_more_than_a_share_of_unusable_files_is_refused_for_every_corpus"
    ),
    "--max-rejects {}": f"{AUDIT}::test_the_share_is_an_option_of_the_verb",
    **dict.fromkeys(
        (
            "`ffmpeg -i {} -c copy mended.ogg` keeps what is there",
            "truncated: it ends within a frame; copy it again",
            "on there is no frame; copy it again",
        ),
        f"{AUDIT}::test_an_ogg_or_mp3_file_that_broke_off_between_its_frames_is_found",
    ),
    **dict.fromkeys(
        ("fails its checksum; copy it again", "it is empty (0 bytes); copy it again"),
        f"{AUDIT}::test_damage_to_a_file_is_found_by_a_check_or_by_digests_against_an_earlier_one",
    ),
    "has a NUL in its name, and no file has; correct it": (
        "tests/audio/test_stretches.py::test_parts_that_no_file_has_are_refused_however_large_their_numbers"
    ),
    "has a NUL in its name; no file has: correct the line": (
        "tests/test_readers.py::test_what_was_found_before_stays_mended"
    ),
    "the disk is full: free some space on it": (
        "tests/end_to_end/test_full_disk.py::test_without_room_nothing_is_torn_and_with_room_all_is_made"
    ),
    "the disk is full: make room and try again": (
        "tests/end_to_end/test_full_disk.py"
        "::test_a_store_without_room_keeps_its_speakers_and_takes_another_with_room"
    ),
    "Put sound files in the place {}, or leave such batches out": (
        "tests/training/test_faults.py::test_sound_files_in_the_place_of_damaged_ones_are_enough_or_a_budget"
    ),
    "Lower optim.lr or set optim.clip_norm{}": (
        "tests/training/test_faults.py"
        "::test_too_large_a_learning_rate_is_what_is_to_be_lowered_and_no_utterance_is_named"
    ),
    "'farvox replay {}' runs this batch again": (
        "tests/training/test_faults.py::test_a_replay_is_the_step_again_and_finite_after_the_file_was_replaced"
    ),
    "not the folder of a step ({}): give one of RUN_DIR/replay": (
        "tests/training/test_faults.py::test_a_replay_is_the_step_again_and_finite_after_the_file_was_replaced"
    ),
    "Put these files back from a copy; or remove {}, to begin anew": (
        "tests/training/test_damage.py::test_a_run_without_a_whole_checkpoint_is_refused_with_the_way_out"
    ),
    "damaged ({}): put it back, or remove it": (
        "tests/training/test_damage.py::test_a_damaged_record_of_the_start_is_refused_and_may_be_removed"
    ),
    "make room, and the same command goes on after them": (
        "tests/training/test_damage.py::test_a_full_disk_leaves_the_checkpoints_before_and_says_what_is_needed"
    ),
    "resamples (--bootstrap) are rough": ("tests/cli/test_evaluate.py::test_intervals_of_few_draws_say_so"),
    "--apply needs a score file to write": (
        "tests/cli/test_calibrate.py::test_a_saved_calibration_makes_likelihood_ratios_of_other_scores"
    ),
    "are not known, and so no {} of": (
        "tests/cli/test_calibrate.py::test_measures_that_are_missing_are_named"
    ),
    "extract again with --quality": ("tests/cli/test_calibrate.py::test_measures_that_are_missing_are_named"),
    "there is nothing for --quality": (
        "tests/cli/test_calibrate.py::test_measures_that_are_missing_are_named"
    ),
    "was changed since {} was made of it; score again": (
        "tests/cli/test_calibrate.py::test_recordings_unlike_those_of_the_fit_are_noted"
    ),
    "no more is (--longest, longest=)": (
        "tests/verifier/test_listen.py::test_no_more_is_taken_than_the_longest"
    ),
    "nothing came; look at the source": ("tests/verifier/test_listen.py::test_what_cannot_be_fed_is_refused"),
    **dict.fromkeys(
        ("a socket is tcp:HOST:PORT", "start what gives the samples first"),
        "tests/verifier/test_sources.py::test_raw_samples_come_through_a_socket_however_they_are_cut",
    ),
    "add speakers, or promise less": (
        "tests/score/test_sequential.py::test_trials_that_cannot_be_fitted_on_are_refused"
    ),
    "a recording is needed: farvox listen ENROL": (
        "tests/cli/test_verify.py::test_listen_without_an_answer_is_one_line_of_json"
    ),
    "no answer: a note is serious": (
        "tests/cli/test_verify.py::test_strict_gives_no_decision_where_a_note_is_serious"
    ),
    "is an ONNX file, and so is its copy": (
        "tests/cli/test_calibrate.py::test_a_copy_as_an_onnx_file_decides_without_torch"
    ),
    "--out is the model itself": (
        "tests/cli/test_calibrate.py::test_a_copy_gets_the_threshold_and_the_model_stays_as_it_is"
    ),
    "{}: {}; --trial-speakers or --speaker-before": (
        "tests/cli/test_calibrate.py::test_a_threshold_has_an_interval_over_the_speakers"
    ),
    "score by the same rules, or fit": (
        "tests/cli/test_calibrate.py::test_a_calibration_is_for_scores_of_its_model_and_rules_only"
    ),
    "--out FOLDER or --out FILE.onnx makes": (
        "tests/cli/test_calibrate.py::test_a_copy_gets_the_threshold_and_the_model_stays_as_it_is"
    ),
    **dict.fromkeys(
        (
            "--conditions goes with --cohort-by",
            "--cohort-by: the data dirs of these embeddings are not known",
            "--cohort-by {}: no such condition",
            "--cohort-by {}: it is known of no utterance of the cohort",
            "--cohort-by {}: '{}' is no number",
        ),
        "tests/cli/test_score.py::test_a_cohort_by_condition_that_does_not_fit_is_refused",
    ),
    "is of the systems {}, and these are": (
        "tests/cli/test_fuse.py::test_a_fusion_is_for_the_scores_of_its_models_and_needs_no_labels"
    ),
    "unknown speakers: {}": "tests/cli/test_fuse.py::test_speakers_too_few_for_a_fusion_are_refused",
    "cannot be read as a {}": (
        "tests/cli/test_calibrate.py::test_a_saved_calibration_makes_likelihood_ratios_of_other_scores"
    ),
    "(`cat {} > FILE`), and name that": (
        "tests/audio/test_files.py::test_a_named_pipe_is_refused_at_once_and_copied_as_its_message_says"
    ),
    "`sox IN OUT vol -1` turns one over": (
        "tests/farfield/test_enhance.py::test_a_microphone_that_is_the_wrong_way_round_is_turned_over"
    ),
    "`{}` brings all of it to those of its beginning": (
        "tests/audio/test_files.py::test_a_rate_or_layout_that_changes_is_refused_and_can_be_mended"
    ),
    "`gzip -dc {} > audio.wav` writes what is in it": (
        "tests/audio/test_files.py::test_a_gzipped_file_is_named_with_the_command_that_unpacks_it"
    ),
    "samples without a header get one by `ffmpeg -f s16le -ar 16000 -ac 1 -i {} audio.wav`": (
        "tests/audio/test_files.py::test_samples_without_a_header_get_one_by_the_command_that_is_named"
    ),
    "farvox reads it with --remote, or with [data] remote = true in a recipe": (
        "tests/audio/test_remote.py::test_asked_for_audio_of_a_data_dir_is_read"
    ),
    "leave out all before the @, and give credentials": (
        "tests/audio/test_remote.py::test_a_password_in_a_url_is_refused_and_not_printed"
    ),
    "check the credentials (docs/training.md": (
        "tests/audio/test_remote.py"
        "::test_without_credentials_it_is_said_at_once_and_with_them_the_file_is_read"
    ),
    "check the address and the network, and give the same command again": (
        "tests/audio/test_remote.py::test_a_lasting_fault_is_an_error"
    ),
    "start again, perhaps with fewer --jobs": (
        "tests/test_jobs.py::test_a_process_that_dies_ends_the_work_and_it_can_be_started_again"
    ),
    "GB are available; cut it into pieces": "tests/cli/test_remedies.py"
    "::test_a_recording_too_long_for_the_memory_is_refused_and_its_pieces_are_embedded",
    "give fewer --threads (--threads 1": MEMORY,
    "choose --method kmeans": MEMORY,
    "extract and cluster a 'farvox subset' of the data dir": MEMORY,
    ". To go on at {}: --schedule.epochs {} --schedule.extend {}": "tests/training/test_resume.py"
    "::test_a_prolonged_run_says_by_how_much_its_rate_rises_and_the_way_out_keeps_it",
    "'farvox pull {}' makes it anew": (
        "tests/zoo/test_pretrained.py::test_pull_repairs_a_damaged_folder_without_a_manifest"
    ),
    "--renew-manifest takes a folder; 'farvox pull NAME'": (
        "tests/zoo/test_pretrained.py::test_pull_repairs_a_damaged_folder_without_a_manifest"
    ),
    "--renew-manifest' enters the files as they are": (
        "tests/test_manifest.py::test_a_folder_without_a_manifest_is_noted_with_the_command_that_writes_one"
    ),
    "where you know that it was not, remove the file and resume": (
        "tests/training/test_checkpoint.py::test_a_damaged_record_of_the_audio_is_named"
    ),
    "has other utterances or speakers than when the run began": (
        "tests/cli/test_selftrain.py::test_changed_inputs_are_refused_or_evaluated_again"
    ),
    "--enrol-map and --test-map are of --trials": (
        "tests/cli/test_data.py::test_check_reports_a_test_utterance_inside_its_own_enrolment"
    ),
    "was extracted again since": (
        "tests/cli/test_score.py::"
        "test_embeddings_that_were_written_again_and_speakers_that_changed_since_are_reported"
    ),
    "What was trained before is evaluated by --from": (
        "tests/cli/test_run.py::test_a_training_whose_data_changed_is_refused_and_what_was_trained_can_be_evaluated"
    ),
    "another process keeps it locked; try again when that has ended": (
        "tests/verifier/test_store.py::test_an_error_explains_a_wait_that_was_too_long"
    ),
    "it cannot be written: look at the permissions": (
        "tests/verifier/test_store.py::test_a_read_only_store_is_read"
    ),
    "it, or a journal beside it, cannot be opened: look at the permissions": (
        "tests/verifier/test_store.py::test_a_read_only_store_is_read"
    ),
    "is being written ({}); wait until that ends": (
        "tests/test_writers.py::test_the_second_writer_is_told_who_the_first_is_and_goes_on_when_that_has_ended"
    ),
    "To keep both, choose another name for one of them": (
        "tests/test_writers.py::test_one_that_waited_and_replaces_what_the_other_made_says_so"
    ),
    ", or choose another name": (
        "tests/test_sharding.py"
        "::test_a_shard_is_done_by_one_process_at_a_time_and_one_lost_with_its_machine_by_another"
    ),
    "; it holds embeddings: name the data dir": (
        "tests/datadir/test_stores.py::test_foreign_and_missing_places_are_refused"
    ),
    "it runs no more, remove {}, else": (
        "tests/test_writers.py::test_the_lock_of_another_machine_is_never_removed"
    ),
    "an address needs --out FOLDER and --arch NAME": PULL,
    "go with an address, not with a name of the zoo": PULL,
    "not pinned; next time say --sha256 {}": PULL,
    "--max-gb {}: it is a number of GB above 0": (
        "tests/zoo/test_pretrained.py::test_a_checkpoint_of_any_size_is_not_fetched_from_an_address"
    ),
    "which no graph of farvox has, and is not run": (
        "tests/zoo/test_hostile.py::test_a_graph_that_is_not_farvoxs_is_not_run_and_an_export_is"
    ),
    "the graph gives embeddings of {} numbers": (
        "tests/zoo/test_hostile.py::test_a_graph_that_is_not_farvoxs_is_not_run_and_an_export_is"
    ),
    "--max-gb allows more": (
        "tests/zoo/test_pretrained.py::test_a_checkpoint_of_any_size_is_not_fetched_from_an_address"
    ),
    "run the stages again --from extract": (
        "tests/cli/test_run.py::test_scores_of_two_models_are_not_one_row_of_the_table"
    ),
    "rename them in one utt2spk if they are not": (
        "tests/training/test_trainer.py::test_speakers_that_are_renamed_in_one_dir_are_two"
    ),
    "remove them from the list": (
        "tests/training/test_trainer.py"
        "::test_validation_of_an_utterance_with_itself_or_wrong_labels_is_refused"
    ),
    "strangers accepted; with --band narrow": (
        "tests/verifier/test_signal.py"
        "::test_a_band_that_ends_above_4_khz_is_noted_unless_both_sides_are_compared_below_that"
    ),
    "'farvox pull {}' repairs it": (
        "tests/zoo/test_pretrained.py::test_a_changed_bit_in_the_cache_is_refused_and_pull_repairs_it"
    ),
    "with --ties grouped, by thresholds that exist": (
        "tests/cli/test_evaluate.py::test_tied_scores_are_noted_where_they_change_the_figures"
    ),
    "leave --spk2utt out": (
        "tests/zoo/test_foreign.py::test_speakers_that_are_not_the_classes_of_the_classifier_are_refused"
    ),
    "give the spk2utt of the data dir that it was trained on": (
        "tests/zoo/test_foreign.py::test_speakers_that_are_not_the_classes_of_the_classifier_are_refused"
    ),
    "on a machine that has it and give OUT.onnx as MODEL": (
        "tests/cli/test_main.py::test_without_a_package_what_needs_it_names_it_and_all_else_goes_on"
    ),
    "this CPU has no bf16 (avx512_bf16 or amx_bf16): leave --precision out": (
        "tests/zoo/test_openvino_backend.py::test_a_cpu_without_bf16_is_told"
    ),
    "or get the file by hand and run 'farvox import FILE OUT": (
        "tests/zoo/test_pretrained.py"
        "::test_every_source_that_failed_is_named_with_its_reason_and_the_file_is_enough"
    ),
    " (this run dir takes only checkpointing and workers": (
        "tests/cli/test_train.py::test_out_of_memory_names_what_needs_less_and_that_helps"
    ),
    "lower data.workers, or cut the longest recordings of validate.data": MEMORY,
    "cut the longest recordings, and name another OUT": MEMORY,
    "take them out of one, or leave out --test": (
        "tests/pipelines/test_adapt.py::test_an_adaptation_ends_in_a_model_with_its_threshold_and_figures"
    ),
    "remove one of each": (
        "tests/pipelines/test_adapt.py::test_recordings_under_two_names_are_refused_until_one_of_each_is_removed"
    ),
    " (names of files may tell the speakers: --pattern '{speaker}_{take}')": (
        "tests/corpora/test_folder.py::test_a_folder_without_speakers_is_refused_with_what_was_expected"
    ),
    "add some, or name a folder of others with --test": (
        "tests/pipelines/test_adapt.py::test_speakers_of_another_folder_judge_in_rooms_and_noise_made_for_it"
    ),
    "give the number of clips to make as SOURCE": (
        "tests/synthetic/test_noise.py::test_a_number_that_makes_no_two_parts_is_refused"
    ),
    ", lower optim.accumulate": (
        "tests/training/test_trainer.py"
        "::test_a_pass_of_one_example_with_batchnorm_is_refused_and_the_ways_out_work"
    ),
}
"""Words of a remedy, and the test that runs it, where that is no case of ``tests/cli/test_remedies.py``."""
NO_STEADY_LIMIT = "where it helps differs by machine, and polars may end the process first"
NOT_RUN = {
    "take a smaller cohort ('farvox subset', or --cohort-speakers": NO_STEADY_LIMIT,
    "split the trial list and score its parts": NO_STEADY_LIMIT,
    "leave out --intervals and --against": "polars mostly ends the process itself where it has no memory",
    "close other programs, or shorten the input": "what else runs is the user's",
    "the package '{}' is not installed: pip install": "a test installs nothing",
    "install farvox[vad] to keep only": "a test installs nothing",
    "through the package PyAV: pip install av": "a test installs nothing",
    "the service needs packages that are not installed: pip install": "a test installs nothing",
    "are sealed by the package cryptography: pip install": "a test installs nothing",
    "silero-vad is not installed: pip install": "a test installs nothing",
    "WPE needs nara_wpe: pip install": "a test installs nothing",
    "--engine ray needs ray: pip install": "a test installs nothing",
    "--engine ray computes on CPUs: add --device cpu": "no machine of the tests has another device",
    "rooms need pyroomacoustics: pip install": "a test installs nothing",
    "WavLM needs {}: pip install": "a test installs nothing",
    "log.tensorboard needs TensorBoard: pip install": "a test installs nothing",
    "export needs onnxruntime: pip install": "a test installs nothing",
    "exported models need onnxruntime: pip install": "a test installs nothing",
    "--backend openvino needs it: pip install": "a test installs nothing",
    "needs {}: pip install '{}' ({})": "a test installs nothing",
    "; pip install 'farvox[vad]' tells speech from other sounds": "a test installs nothing",
    "the system refuses: look at the permissions": "no system was found on which SQLite ends so",
    "give fewer --jobs": "the limit of a test is that of one process, and each job is one",
    "draw them with --num-nontarget": "polars mostly ends the process itself where it has no memory",
    "draw from a 'farvox subset'": "polars mostly ends the process itself where it has no memory",
    "leave out --by": "polars mostly ends the process itself where it has no memory",
    "the disk is full; set FARVOX_CACHE": "needs a full disk",
    "conditioning that this farvox does not know ({}): update farvox": "there is no later farvox",
    "and this farvox reads {}: update farvox": "there is no later farvox",
    "({} to {}) is not known: update farvox": "there is no later farvox",
    "and this farvox reads up to {}: install a newer one": "there is no later farvox",
    ", set optim.sync_batchnorm = true": "needs several GPUs",
    "the flac encoder left out frame": "no encoder at hand leaves one out",
    "convert it to wav": "no codec at hand is one that FFmpeg cannot name",
    **dict.fromkeys(
        (
            "`python -m sounddevice` lists the numbers",
            "a microphone needs sounddevice",
            "a microphone needs PortAudio",
            "`python -m sounddevice` lists what there is",
        ),
        "no machine of the tests has a microphone",
    ),
    "'python -m ensurepip' or 'uv pip install pip' brings it": "a test installs nothing",
}
"""Words of a remedy that no test can run, and why."""


def texts_with(words: str, remedies: list[Text]) -> set[str]:
    """The remedy that is these words, or else all that contain them."""
    texts = {each.text for each in remedies}
    return {words} & texts or {text for text in texts if words in text}


def test_every_remedy_is_run(messages, root):
    cases = runpy.run_path(str(root / "tests/cli/test_remedies.py"))["CASES"]
    remedies = named_remedies(messages)
    lists = [*NO_REMEDIES, *ELSEWHERE, *NOT_RUN]
    covered = {
        words: texts_with(words, remedies) for words in [*(case.words for case in cases.values()), *lists]
    }
    unclear = [words for words, texts in covered.items() if len(texts) != 1]
    assert unclear == [], "words of no remedy, or of several"
    missing = [str(each) for each in remedies if {each.text} not in covered.values()]
    assert missing == [], "remedies that no test runs"
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (root / path).read_text("utf-8"), test


def test_less_memory_is_asked_of_options_that_the_verb_has():
    assert set(LESS_MEMORY) >= {verb for verb in VERBS if "--jobs" in options_of(verb)}
    for verb, ways in LESS_MEMORY.items():
        for left, way in ways:
            assert set(OPTION.findall(f"{left} {way}")) <= options_of(verb), (verb, way)
