"""The options of a training: the tables of a recipe that one run of the trainer needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from farvox.augment import AugmentOptions
from farvox.errors import RecipeError
from farvox.features.frontend import FrontEndConfig
from farvox.features.specaugment import SpecAugmentOptions
from farvox.models.options import HEAD, MODEL
from farvox.options import (
    Above,
    AtLeast,
    AtMost,
    Options,
    Part,
    Table,
    differences,
    from_table,
    kinds,
    to_table,
)
from farvox.parsing import parse_toml

EVERYTHING = "network"
"""The name of the whole network among the parts that are not trained, so that only the classifier is."""
FEATURES, AUGMENT, SPECAUGMENT = Part(FrontEndConfig), Part(AugmentOptions), Part(SpecAugmentOptions)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """``[data]``: the speech that is trained on."""

    train: tuple[Path, ...] = ()
    """Data dirs to train on; each is a domain of its own."""
    num_frames: Annotated[int, AtLeast(1), AtMost(100_000)] = 200
    """Length of a training chunk in frames of the front-end."""
    least_frames: Annotated[int, AtLeast(0)] = 0
    """Least length of a chunk: each batch has one of its own, drawn from here to num_frames in steps of 25
    frames; 0: always num_frames."""
    sampling: Literal["utterance", "speaker"] = "utterance"
    """Order of an epoch: every "utterance" once, or every "speaker" equally often."""
    reserve: tuple[Path, ...] = ()
    """Data dirs whose speakers get classifier rows, but are not trained on yet."""
    domain_weights: tuple[Annotated[float, Above(0)], ...] = ()
    """Share of each data dir in every batch; empty: as large as each is."""
    epoch_size: Annotated[int, AtLeast(0), AtMost(1_000_000_000)] = 0
    """Examples in an epoch; 0: as many as there are utterances."""
    speeds: tuple[float, ...] = (1.0,)
    """Speed factors; each factor other than 1 makes a new speaker of every speaker."""
    workers: Annotated[int, AtLeast(0), AtMost(256)] = 2
    """Processes that read and augment; 0: the training process does it itself."""
    max_rejects: Annotated[float, AtLeast(0), AtMost(1)] = 0.001
    """Share of the utterances that may be at fault, as 'farvox check --audio' found, and be left out."""
    remote: bool = False
    """Reach audio on other machines, where data dirs name it by URL; it is refused otherwise."""
    features: Literal["device", "workers"] = "device"
    """Features are computed on the "device" of the network, or by the "workers" that read the chunks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_frames > self.num_frames:
            raise RecipeError(
                f"data.least_frames = {self.least_frames} is more than data.num_frames = {self.num_frames}"
            )


@dataclass(frozen=True, kw_only=True)
class InitOptions(Options):
    """``[init]``: the model that training starts from."""

    model: str = ""
    """A MODEL (model folder, run dir, RUN_DIR@37, a name of the zoo); empty: new weights."""
    classifier: Literal["new", "means", "keep", "extend"] = "new"
    """Classifier: a "new" one; the "means" of the speakers' embeddings by the model; "keep", the model's own,
    for the same speakers; or "extend", its rows and then new ones."""
    mean_utterances: Annotated[int, AtLeast(1)] = 10
    """Utterances of each speaker in the means of "means"."""


@dataclass(frozen=True, kw_only=True)
class DistillOptions(Options):
    """``[distill]``: the frozen starting model as a teacher, which embeds every chunk before augmentation."""

    weight: Annotated[float, AtLeast(0)] = 0.0
    """Weight of 1 - cosine between an embedding and the teacher's; 0: no teacher."""
    classify: Annotated[float, AtLeast(0)] = 1.0
    """Weight of the classification loss; 0: the head is not trained and no speaker labels are needed."""


@dataclass(frozen=True, kw_only=True)
class AgreeOptions(Options):
    """``[agree]``: every chunk is twice in a batch, each time with augmentation of its own."""

    weight: Annotated[float, AtLeast(0)] = 0.0
    """Weight of 1 - cosine between the two embeddings of a chunk; 0: every chunk is once in a batch."""

    @property
    def copies(self) -> int:
        """Examples in a row that share a chunk."""
        return 2 if self.weight else 1


@dataclass(frozen=True, kw_only=True)
class OptimOptions(Options):
    """``[optim]``: the optimiser and its step."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimiser."""
    lr: Annotated[float, AtLeast(0)] = 0.01
    """Full learning rate, which the schedule changes."""
    momentum: Annotated[float, AtLeast(0)] = 0.9
    """Momentum of "sgd"."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: Annotated[float, AtLeast(0)] = 1e-3
    """Weight decay; for "sgd" and "adam" an L2 term of the gradient."""
    batch_size: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 128
    """Examples of one optimiser step, over all ranks and accumulation steps."""
    accumulate: Annotated[int, AtLeast(1)] = 1
    """Forward-backward passes per optimiser step."""
    l2_sp: Annotated[float, AtLeast(0)] = 0.0
    """Strength of the pull back to the network's starting weights (L2-SP); for the network it takes the place
    of weight_decay."""
    clip_norm: Annotated[float, AtLeast(0)] = 0.0
    """Largest gradient norm; 0: not clipped."""
    skip_nonfinite: Annotated[int, AtLeast(0)] = 0
    """Steps of a run that are left out where loss or gradient is not finite; one more ends it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Number format: "fp32", or autocast to "bf16" or "fp16"; "auto": bf16 where the device has it, else
    fp32."""
    sync_batchnorm: bool = False
    """BatchNorm statistics over all ranks; by default per rank, as in the baseline."""
    freeze_batchnorm: bool = False
    """BatchNorm keeps its running statistics (evaluation mode) while training."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that are not trained, by the beginning of their names; "network": all of it."""
    release_epoch: Annotated[int, AtLeast(0)] = 0
    """First epoch in which the frozen parts are trained too; 0: none."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """All channels of one position side by side in memory; "auto": where the network's step is then faster on
    this device."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    compile: bool = False
    """Run the network through torch.compile; the first step then takes a minute or more."""
    shard_head: bool = False
    """Each rank holds the classifier's rows of a part of the classes: the same training, less memory."""
    sample_classes: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Share of a shard's classes that a step sees, besides those of its batch; needs shard_head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise RecipeError("optim.nesterov = true is a form of the momentum, and optim.momentum is 0")

    @classmethod
    def translate_older(cls, table: Mapping[str, Any]) -> Mapping[str, Any]:
        """Older recipes say true or false of ``channels_last``."""
        older = table.get("channels_last")
        return {**table, "channels_last": "on" if older else "off"} if isinstance(older, bool) else table


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """``[schedule]``: epochs, learning rate and margin."""

    epochs: int = 40
    """Training ends before this epoch number, and so does the curve of the learning rate."""
    extend: Annotated[int, AtLeast(0)] = 0
    """Further epochs after these, at the learning rate of the curve's end."""
    first_epoch: Annotated[int, AtLeast(0)] = 0
    """Number of the first epoch (the homework continues at 44); milestones count from it, warm-up from 0."""
    kind: Literal["multistep", "linear", "cosine", "exponential", "constant"] = "multistep"
    """Curve of the learning rate; all but "multistep" change at every step."""
    milestones: tuple[int, ...] = (10, 20, 30)
    """Epochs at which "multistep" multiplies the learning rate by gamma."""
    gamma: float = 0.1
    """Factor of "multistep"."""
    final_lr: Annotated[float, AtLeast(0)] = 0.0
    """Learning rate at the end of "linear", "cosine" and "exponential"."""
    warmup_epochs: Annotated[float, AtLeast(0)] = 2.0
    """Epochs of linear warm-up; a fraction of one is possible."""
    margin_epochs: tuple[float, ...] = ()
    """[start, end]: the margin is 0 until epoch start and grows to its full value until epoch end."""

    @property
    def end(self) -> int:
        """The number after the last epoch."""
        return self.epochs + self.extend


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(Options):
    """``[validate]``: the trial list that is scored after each epoch."""

    data: Path | None = None
    """Data dir of the trials."""
    trials: Path | None = None
    """Trial list with labels; without one there is no validation."""
    every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    keep_embeddings: bool = False
    """Keep the embeddings of each validation in the run dir, as validation/epoch_NNN."""


@dataclass(frozen=True, kw_only=True)
class LogOptions(Options):
    """``[log]``: figures and checkpoints that a run leaves behind."""

    every: Annotated[int, AtLeast(1)] = 20
    """Steps between two progress figures."""
    tensorboard: bool = False
    """Write the figures for TensorBoard too."""
    keep: Annotated[int, AtLeast(0)] = 0
    """Epochs whose checkpoints are kept, and faulty steps that are kept for a replay; 0: all."""
    save_steps: Annotated[int, AtLeast(0)] = 0
    """Steps between two checkpoints within an epoch; 0: none by steps."""
    save_minutes: Annotated[float, AtLeast(0)] = 30.0
    """Minutes without a checkpoint after which one is saved within an epoch; 0: none by time."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Everything that one training needs."""

    seed: Annotated[int, AtLeast(0)] = 3007
    """Everything that is drawn follows from it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    threads: Annotated[int, AtLeast(0), AtMost(1024)] = 0
    """CPU threads of a training process; 0: torch's own choice."""
    wait_minutes: Annotated[float, Above(0)] = 10.0
    """Minutes that one process waits for the others of a run, before it names those that are missing and
    ends."""
    data: DataOptions = DataOptions()
    """The speech that is trained on."""
    features: Annotated[Table, FEATURES] = field(default_factory=dict)
    """The front-end of a new model; empty: that of init.model."""
    augment: Annotated[Table, AUGMENT] = field(default_factory=dict)
    """Augmentation of the chunks."""
    specaugment: Annotated[Table, SPECAUGMENT] = field(default_factory=dict)
    """Masks over the features; empty: none."""
    model: Annotated[Table, MODEL] = field(default_factory=dict)
    """The network; empty: that of init.model."""
    head: Annotated[Table, HEAD] = field(default_factory=dict)
    """The classification head."""
    init: InitOptions = InitOptions()
    """The model that training starts from."""
    distill: DistillOptions = DistillOptions()
    """The starting model as a teacher."""
    agree: AgreeOptions = AgreeOptions()
    """Every chunk twice in a batch."""
    optim: OptimOptions = OptimOptions()
    """The optimiser and its step."""
    schedule: ScheduleOptions = ScheduleOptions()
    """Epochs, learning rate and margin."""
    validate: ValidateOptions = ValidateOptions()
    """The trial list that is scored after each epoch."""
    log: LogOptions = LogOptions()
    """Figures and checkpoints that are left behind."""


def saved_options(saved: Path, cls: type[TrainOptions]) -> TrainOptions:
    """The options of a training that a run dir's recipe has; other stages' are not looked at.

    Raises:
        RecipeError: it is no recipe.
    """
    try:
        table = parse_toml(saved.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{saved}: cannot be read as a recipe: {error}") from None
    return from_table(cls, {key: table[key] for key in table if key in kinds(cls)}, str(saved))


def refuse_changes(
    saved: Path, options: TrainOptions, fixed: type[TrainOptions], free: tuple[str, ...], run_dir: Path
) -> None:
    """Refuse to go on with a run dir whose recipe, ``saved``, has other values of the fields of ``fixed``.

    Those of ``free`` may change nevertheless; a table's name with a dot stands for all its fields.

    Raises:
        RecipeError: names the fields that differ, with their values before and now; or it is no recipe.
    """
    before, now = (
        {key: value for key, value in to_table(each).items() if key in kinds(fixed)}
        for each in (saved_options(saved, fixed), options)
    )
    changed = [
        f"  {key}: {one!r} there, {other!r} now"
        for key, (one, other) in differences(before, now, free).items()
    ]
    if changed:
        raise RecipeError(
            f"{run_dir} was begun with another recipe; choose another --run-dir or undo this:\n"
            + "\n".join(changed)
        )
