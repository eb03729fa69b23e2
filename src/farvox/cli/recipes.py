"""The verbs about recipes: adapt, train, run, selftrain, recipes."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from tyro.conf import Positional, arg

from farvox.cli.flags import wrong_usage
from farvox.errors import RecipeError, UsageError
from farvox.options import Table, described, from_table, merge
from farvox.parsing import parse_toml
from farvox.pipelines.adapt import AdaptOptions
from farvox.pipelines.recipe import Recipe, default_run_dir, find_recipe, read_recipe, read_toml, recipe_names
from farvox.progress import to_stderr, to_stdout

STAGES = ("prepare", "train", "adapt", "extract", "score", "evaluate")


def train(words: Sequence[str]) -> int:
    """``farvox train RECIPE [--run-dir DIR] [--gpus N] [--no-resume] [--field.name VALUE ...]``."""
    parser = _parser(
        "train",
        "Train or fine-tune a model from a recipe. A run dir that holds checkpoints of the same recipe is "
        "continued after the last one. For many nodes: torchrun ... -m farvox train RECIPE.",
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="start N processes on this machine")
    parser.add_argument(
        "--no-resume", action="store_true", help="refuse a run dir that already holds checkpoints"
    )
    # What torch.distributed.launch adds to the words; it sets the environment as torchrun does, too.
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)
    options, recipe, run_dir = _read(parser, words)
    rank = os.environ.get("RANK")
    if rank is not None and options.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
    if options.gpus > 1 and rank is None:
        from farvox.training.launch import launch_ranks

        if recipe.init.model:
            from farvox.zoo import find_model

            find_model(recipe.init.model)  # fetched once, if need be, and not by every rank
        return launch_ranks([sys.executable, "-m", "farvox", "train", *words], options.gpus)
    from farvox.pipelines.train import train as run_training

    folder = run_training(recipe, run_dir, resume=not options.no_resume, note=to_stdout)
    if rank in (None, "0"):
        to_stdout(f"model: {folder}")
    return 0


def run(words: Sequence[str]) -> int:
    """``farvox run RECIPE [--from STAGE] [--to STAGE] [--run-dir DIR] [--field.name VALUE ...]``."""
    parser = _parser(
        "run", f"Run the stages of a recipe: {' '.join(STAGES)}. Training resumes where it stopped."
    )
    parser.add_argument("--from", dest="first", choices=STAGES, default="prepare", help="first stage")
    parser.add_argument("--to", dest="last", choices=STAGES, default="evaluate", help="last stage")
    options, recipe, root = _read(parser, words)
    from farvox.cli.main import run_verb
    from farvox.pipelines.run import run as run_recipe

    to_stdout(f"recipe {find_recipe(options.recipe)}, results in {root}")
    run_recipe(
        recipe,
        root,
        first=options.first,
        last=options.last,
        note=to_stdout,
        progress=to_stderr,
        run_verb=run_verb,
    )
    return 0


def selftrain(words: Sequence[str]) -> int:
    """``farvox selftrain RECIPE [--run-dir DIR] [--field.name VALUE ...]``."""
    parser = _parser(
        "selftrain",
        "Rounds of: extract the unlabelled speech, cluster it, train on the clusters as if they were "
        "speakers, evaluate. A run that was interrupted goes on where it stopped.",
    )
    options, recipe, root = _read(parser, words)
    from farvox.cli.main import run_verb
    from farvox.pipelines.selftrain import selftrain as run_rounds

    to_stdout(f"recipe {find_recipe(options.recipe)}, results in {root}")
    model = run_rounds(recipe, root, note=to_stdout, progress=to_stderr, run_verb=run_verb)
    to_stdout(f"model: {model}")
    return 0


def adapt(out: Annotated[Path, arg(metavar="DIR")], adaptation: AdaptOptions) -> None:
    """Fine-tune a model for your own rooms, from folders of recordings; judge it, and choose its threshold.

    OUT/model is the model; the table shows it before and after, on speakers, responses and noise that it was
    not trained on. An interrupted run goes on where it stopped.

    Args:
        out: folder of the results.
        adaptation: the folders, and the recipe behind it.
    """
    from farvox.cli.main import run_verb
    from farvox.pipelines.adapt import adapt as adapt_model

    model = adapt_model(out, adaptation, note=to_stdout, progress=to_stderr, run_verb=run_verb)
    to_stdout(f"model: {model}")


for verb in (train, run, selftrain):
    verb.parses_its_own_words = True  # type: ignore[attr-defined]


def recipes(name: Annotated[Positional[str | None], arg(metavar="[NAME]")] = None) -> int:
    """List the recipes that come with farvox; or print one, to be changed: farvox recipes NAME > mine.toml.

    Args:
        name: print this one.
    """
    if name is not None:
        to_stdout(find_recipe(name).read_text(encoding="utf-8").rstrip("\n"))
        return 0
    names = recipe_names()
    width = max(map(len, names), default=0)
    for name in names:
        to_stdout(f"{name:<{width}}  {read_toml(find_recipe(name)).get('title', '')}")
    return 0


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, changed by words ``--field.name VALUE``.

    Raises:
        UsageError: the words name no field, or give it a value of the wrong kind.
        RecipeError: the recipe is not there, or anything in it is wrong.
    """
    try:
        changes = parse_overrides(overrides)
        from_table(Recipe, changes, "command line")
    except RecipeError as error:
        raise UsageError(str(error)) from None
    return read_recipe(name, changes, note=to_stderr)


def parse_overrides(words: Sequence[str]) -> Table:
    """Turn ``--optim.lr 0.1 --data.train=[...]`` into nested tables.

    A value is read as a TOML value; text that is not one is taken as a string.

    Raises:
        RecipeError: a word is not of the form ``--field.name VALUE``.
    """
    table: Table = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise RecipeError(f"'{word}' is not of the form --field.name VALUE")
        name, equals, text = word[2:].partition("=")
        if not equals:
            if not words:
                raise RecipeError(f"--{name} needs a value")
            text = words.pop(0)
        leaf: Any
        try:
            leaf = parse_toml(f"value = {text}")["value"]
        except ValueError:
            leaf = text
        for key in reversed(name.replace("-", "_").split(".")):
            leaf = {key: leaf}
        table = merge(table, leaf)
    return table


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse a command line as every verb does."""
        raise wrong_usage(message, self.prog, " ".join(self.format_usage().split()[3:]))


def _read(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Namespace, Recipe, Path]:
    """The options of a verb, the recipe that it names, changed by the other words, and its run dir."""
    options, overrides = parser.parse_known_args(list(words))
    if options.max_rejects is not None:
        overrides += ["--data.max_rejects", options.max_rejects]
    try:
        recipe = load_recipe(options.recipe, overrides)
    except UsageError as error:
        parser.error(str(error))
    return options, recipe, Path(options.run_dir or recipe.run_dir or default_run_dir(options.recipe))


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    """The parser of a verb that takes a recipe; its help explains every field of one."""
    fields = []
    for name, default, doc in described(Recipe):
        shown = f"{doc} (default: {default})" if default not in ("", "[]") else doc
        lines = textwrap.wrap(shown, 94, break_on_hyphens=False)
        fields.append(
            f"  {name if name.startswith('[[') else f'--{name}'}\n"
            + textwrap.indent("\n".join(lines), " " * 6)
        )
    from farvox.cli.main import VERBS

    parser = _Parser(
        prog=f"farvox {verb}",
        description=f"{textwrap.fill(description, 100)}\n\nexample: farvox {verb} {VERBS[verb].example}",
        epilog="fields of a recipe; those with -- can be set on the command line, to a TOML value:\n\n"
        + "\n".join(fields),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or a name that 'farvox recipes' lists")
    parser.add_argument("--max-rejects", metavar="SHARE", help="the same as --data.max_rejects")
    parser.add_argument("--run-dir", metavar="DIR", help="where results go (default: exp/<recipe>)")
    return parser
