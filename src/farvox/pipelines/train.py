"""Training: a recipe and a run dir become checkpoints."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from farvox.pipelines.recipe import refuse_contradictions
from farvox.progress import Note, silent
from farvox.training.options import TrainOptions
from farvox.writers import one_writer

if TYPE_CHECKING:
    from farvox.training.replay import Replay


def train(options: TrainOptions, run_dir: str | Path, *, resume: bool = True, note: Note = silent) -> Path:
    """Train as the options, or a recipe, say; joins the other ranks, if this process is one of several.

    A run dir that holds checkpoints of the same options is continued after the last whole one.

    Args:
        options: all that the training depends on.
        run_dir: folder of the checkpoints and the log.
        resume: continue such a run dir, instead of refusing it.
        note: called with a line on what is trained, and one an epoch.

    Returns:
        The folder of the last checkpoint.

    Raises:
        BusyError: another process trains in the run dir.
        RecipeError: settings exclude each other, or the run dir belongs to other settings.
        NonFiniteLossError: the gradient became NaN or infinite.
        OutOfMemoryError: a step needs more memory than there is; names the options that need less.
    """
    from farvox.audio.remote import remote_audio
    from farvox.training.distributed import join_world
    from farvox.training.trainer import train as run_training

    with join_world(options.device, options.wait_minutes) as world, remote_audio(options.data.remote):
        refuse_contradictions(options, num_processes=world.size)
        with one_writer(run_dir) if world.is_main else nullcontext():  # the other ranks write nothing
            return run_training(options, Path(run_dir), world, resume=resume, note=note)


def replay(folder: str | Path, *, device: str = "auto", save_audio: str | Path | None = None) -> Replay:
    """Run a step that was not finite again, from the folder that `train` left in ``RUN_DIR/replay``.

    Args:
        folder: of the step.
        device: auto, cpu, cuda or mps.
        save_audio: folder for the chunks, as files of floats.

    Raises:
        CheckpointError: the folder is damaged, or the data dirs were changed.
        AudioError: an utterance cannot be read any more.
    """
    from farvox.training.distributed import join_world
    from farvox.training.replay import replay as run_again

    with join_world(device) as world:
        return run_again(Path(folder), world.device, Path(save_audio) if save_audio else None)
