"""The one loop that trains every model, for one seed or for several side by side.

Images live on the device as integers; a batch is an index. Nothing in a step waits for the
device: losses are read, and non-finite numbers found, only where a line is logged.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from triptych.data.views import check_levels, check_shown
from triptych.train.batches import TrainingData
from triptych.train.checkpoint import forget
from triptych.train.distributed import AGREE_EVERY, anyone, leads, world
from triptych.train.failure import Failure, drop_failed
from triptych.train.files import write_text
from triptych.train.order import TrainConfig
from triptych.train.precision import bf16_helps, networks_in_bf16
from triptych.train.resume import resume as resume_training
from triptych.train.resume import save
from triptych.train.signals import Stop, StopRequested, stop_on_signals
from triptych.train.trainer import Listener, Run, Trainer, nobody
from triptych.validation import validated


@dataclass(frozen=True)
class Progress:
    """What a progress display needs; there is no loss yet while torch.compile is at work."""

    step: int
    steps: int
    loss: float | None

    def __str__(self) -> str:
        return "compiling" if self.loss is None else f"loss {self.loss:.4g}"


def fit(
    models: Sequence[nn.Module],
    seeds: Sequence[int],
    folders: Sequence[Path | str],
    data: TrainingData,
    config: TrainConfig,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda p: None,
    save_every: float = 60.0,
    listeners: Sequence[Listener] = (),
) -> list[Failure]:
    """Train models of one build; leave a checkpoint in each folder; return the seeds that failed.

    In the end the models are in evaluation mode and hold their averaged weights: those that were
    best on the validation images, or the last ones where no loss there was finite. A model that
    failed holds the weights it failed with.
    `save_every` is in seconds; `listeners`, one for each seed, are told what is logged. Raises
    StopRequested after saving when a signal asks to stop, UserError for a setting out of its range,
    ValueError for models or folders that cannot be trained together, or images that the models do
    not take.
    """
    validated(TrainConfig, asdict(config), "TrainConfig")
    if not len(models) == len(seeds) == len(folders) > 0:
        raise ValueError(
            f"each seed needs a model and a folder of its own: {len(seeds)} seeds, {len(models)} "
            f"models, {len(folders)} folders"
        )
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError("each seed needs a folder of its own, and one is given twice")
    check_data(models[0], data)
    for model in models:
        model.train()
    told = listeners or [nobody] * len(seeds)
    runs = [Run(s, Path(f), who) for s, f, who in zip(seeds, folders, told, strict=True)]
    trainer = Trainer(models, runs, data, config)
    _begin(trainer, resume)
    bf16 = config.bf16 and bf16_helps(trainer.device)
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(networks_in_bf16(model, bf16))
        stop = stack.enter_context(stop_on_signals())
        failures = _loop(trainer, stop, progress, save_every)
    if trainer.runs and agreed(trainer, stop, False)[0]:  # in the last step, or while it was saved
        raise stopped(trainer, stop)
    for s, (model, run) in enumerate(zip(trainer.models, trainer.runs, strict=True)):
        model.load_state_dict(run.best or trainer.average(s))
    for model in models:
        model.eval()
    return failures


def check_data(model: nn.Module, data: TrainingData) -> None:
    """ValueError for images that are none, or not as the model takes them."""
    for images, what in ((data.images, "to train on"), (data.validation, "to choose weights by")):
        if len(images) == 0:
            raise ValueError(f"there are no images {what}")
        if (top := int(images.max())) >= data.levels:
            raise ValueError(f"images have a grey value {top}, and levels = {data.levels}")
    check_levels(model, data.levels)
    g = torch.Generator(data.images.device).manual_seed(0)
    check_shown(model, data.view(data.validation[:1000], data.levels, g))


def _begin(trainer: Trainer, resume: bool) -> None:
    """From the checkpoints, or anew with none of an earlier training; the log stands as then."""
    if resume:
        resume_training(trainer)
    else:
        prepare(trainer)
        for run in trainer.runs if leads() else ():
            forget(run.folder)
        save(trainer)  # so that seeds in a stack always have a step in common
    for run in trainer.runs if leads() else ():
        cut_log(run.folder / "metrics.jsonl", trainer.step)


def _loop(
    trainer: Trainer, stop: Stop, progress: Callable[[Progress], None], save_every: float
) -> list[Failure]:
    """Steps until the last, or until no seed is left; what is due after each: log, validation,
    checkpoint, the end. Returns what failed."""
    failures: list[Failure] = []
    batch, n = trainer.config.batch_size, len(trainer.data.images)
    log_every = max(1, round(n / batch / 4))  # four lines an epoch
    began = saved_at = time.monotonic()
    seconds_before = trainer.seconds
    if trainer.compiles:
        progress(Progress(trainer.step, trainer.steps, None))
    while trainer.step < trainer.steps and trainer.runs:
        losses = trainer.train_step()
        last = trainer.step == trainer.steps
        new_epoch = trainer.step * batch // n > (trainer.step - 1) * batch // n
        planned = last or new_epoch or trainer.step % log_every == 0
        asked = world() == 1 or trainer.step % AGREE_EVERY == 0
        due = time.monotonic() - saved_at > save_every
        if not (planned or (asked and any(agreed(trainer, stop, due)))):
            continue
        trainer.seconds = seconds_before + time.monotonic() - began
        if trainer.first_bad.item() >= 0:
            failures += drop_failed(trainer)
            continue
        values = losses.tolist()
        if planned:
            trainer.keep_early()
            trainer.log(loss=values, seconds=round(trainer.seconds, 3))
        progress(Progress(trainer.step, trainer.steps, float(np.mean(values))))
        if last or new_epoch:
            _validate(trainer)
        stopping, saving = agreed(trainer, stop, due)  # again: all this may have taken a while
        if last or stopping or saving:
            save(trainer)
            saved_at = time.monotonic()
        if stopping and not last:
            raise stopped(trainer, stop)
    return failures


def stopped(trainer: Trainer, stop: Stop) -> StopRequested:
    """Where, and by which signal; SIGTERM where another process was asked."""
    return StopRequested(trainer.step, trainer.steps, stop.number or signal.SIGTERM)


def _validate(trainer: Trainer) -> None:
    """Log the averaged weights' loss on the validation images, and keep the best of them."""
    with as_judged(trainer.models):
        losses = trainer.validate()
        terms = trainer.validation_terms()
    trainer.keep_best(losses)
    trainer.log(validation=losses, **{f"validation {k}": v for k, v in terms.items()})


@contextmanager
def as_judged(models: Sequence[nn.Module]) -> Iterator[None]:
    """In evaluation mode by the flag alone: at `eval()` a resampled prior computes a Z that
    validation, whose noise has draws for it, does not read."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for module, _ in before:
        module.training = False
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def agreed(trainer: Trainer, stop: Stop, due: bool) -> tuple[bool, bool]:
    """Whether to stop, and whether to save: what one process wants, all do at the same step."""
    if world() == 1:
        return stop.requested, due
    return anyone(stop.requested, trainer.device), anyone(due, trainer.device)


def prepare(trainer: Trainer) -> None:
    """Give what starts from data (activation normalisation, pseudo-inputs) its first images: a
    batch, or as many as it asks for."""
    for model, run in zip(trainer.models, trainer.runs, strict=True):
        for module in model.modules():
            if hasattr(module, "prepare") and not getattr(module, "frozen", False):
                n = getattr(module, "images_to_prepare", None)
                module.prepare(*trainer.batch(run, 0, n, bent=False))  # pyright: ignore[reportCallIssue]
    trainer.use(trainer.models)
    if len(trainer.models) > 1:
        check_alike(trainer)


@torch.no_grad()
def check_alike(trainer: Trainer) -> None:
    """Refuse models that differ in more than their tensors: a stack runs the first one's code."""
    drawn = [trainer.batch(run, 0, 2, bent=False) for run in trainer.runs]
    stacked = tree_map(lambda *leaves: torch.stack(leaves), *drawn)
    pairs = zip(trainer.models, trainer.runs, drawn, trainer.ensemble.losses(*stacked), strict=True)
    for model, run, inputs, in_stack in pairs:
        alone = model.loss(*inputs)  # pyright: ignore[reportCallIssue]
        # Rounding, of a GPU's convolutions too, is well below.
        if not torch.allclose(in_stack, alone, rtol=0.01, atol=0.01, equal_nan=True):
            raise ValueError(
                f"seeds side by side must be built alike: the model of seed {run.seed} has a loss "
                f"of {alone.mean():.6g}, and by the first one's code {in_stack.mean():.6g}"
            )


def cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that a run goes on from, and torn lines."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() and step else []
    kept = [line for line in lines if logged_step(line) <= step]
    write_text(path, "".join(line + "\n" for line in kept))


def logged_step(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity if it is torn."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
