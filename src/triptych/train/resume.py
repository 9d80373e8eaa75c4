"""What a training leaves on disk, and how it is taken up again."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from triptych.errors import UserError
from triptych.train import checkpoint
from triptych.train.checkpoint import Checkpoint
from triptych.train.distributed import leads, world
from triptych.train.files import flush
from triptych.train.trainer import Run, Trainer


def common_step(folders: Sequence[Path]) -> int | None:
    """The last step of which all these folders have a whole checkpoint."""
    steps = [{loop["step"] for loop in checkpoint.loops(folder)} for folder in folders]
    return max(set.intersection(*steps), default=None)


def save(trainer: Trainer) -> None:
    """One checkpoint for each seed, after the log that leads up to it."""
    if not leads():
        return
    for s, run in enumerate(trainer.runs):
        model = trainer.ensemble.full_state(s, trainer.parameters())
        ema = trainer.ensemble.full_state(s, trainer.ema)
        loop = {
            "step": trainer.step,
            "best": None if math.isinf(run.best_loss) else run.best_loss,  # JSON has no infinity
            "seconds": trainer.seconds,
            "steps": trainer.steps,
            "seed": run.seed,
            "threads": torch.get_num_threads(),
            "batch_size": trainer.config.batch_size,
            "stack": [r.seed for r in trainer.runs],
            "world": world(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        if (log := run.folder / "metrics.jsonl").exists():
            flush(log)
        moments = moments_of_seed(trainer, s)
        saved = Checkpoint(model, ema, run.best or ema, moments, loop, run.early)
        checkpoint.save(run.folder, saved)


def moments_of_seed(trainer: Trainer, s: int) -> dict[str, Tensor]:
    """The averages that the optimizers keep for the s-th seed, as `exp_avg.NAME`; not their counts
    of steps."""
    kept = zip(trainer.ensemble.names, trainer.moments(), strict=True)
    return {
        f"{kind}.{name}": trainer.ensemble.of_seed(s, moment)
        for name, of_parameter in kept
        for kind, moment in of_parameter.items()
        if kind != "step"
    }


def resume(trainer: Trainer) -> None:
    """Take every seed up at the last step of which all have a checkpoint.

    After a crash in the middle of a save, that is the one before for some of them.
    """
    step = common_step([run.folder for run in trainer.runs])
    saved = [checkpoint.load(run.folder, step) for run in trainer.runs]
    if step is None and len(saved) > 1:
        raise UserError(
            f"{trainer.runs[0].folder} and its stack have no step in common; delete them"
        )
    for model, run, c in zip(trainer.models, trainer.runs, saved, strict=True):
        _check_same_training(trainer, c, run)
        checkpoint.load_into(model, c.model, run.folder)
        _check_fits(trainer, c, run.folder)
        best = c.loop["best"]
        run.best_loss, run.early = math.inf if best is None else best, c.early
        run.best = c.best if math.isfinite(run.best_loss) else {}
    trainer.use(trainer.models)
    trainer.step, trainer.seconds = saved[0].loop["step"], saved[0].loop["seconds"]
    for s, c in enumerate(saved):
        for name, average in trainer.ensemble.state(s, trainer.ema).items():
            average.copy_(c.ema[name])
        for name, moment in moments_of_seed(trainer, s).items():
            moment.copy_(c.optimizer[name])
    for kept in trainer.moments():
        if "step" in kept:
            kept["step"].fill_(trainer.step)


def _check_same_training(trainer: Trainer, saved: Checkpoint, run: Run) -> None:
    """Refuse a checkpoint of another seed, batch size or number of steps: images, noise and
    learning rate would go on as those of neither."""
    asked = {"seed": run.seed, "batch_size": trainer.config.batch_size, "steps": trainer.steps}
    for name, mine in asked.items():
        theirs = saved.loop.get(name, mine)  # which earlier versions did not note
        if theirs != mine:
            raise UserError(
                f"{run.folder} has the checkpoint of a training with {name} = {theirs}, and "
                f"{mine} is asked for; go on as it began, or train into another folder"
            )


def _check_fits(trainer: Trainer, saved: Checkpoint, folder: Path) -> None:
    """Refuse what would not fit, or would be broadcast until it does."""
    checkpoint.check_like(saved.optimizer, moments_of_seed(trainer, 0), folder)
    for part in (saved.ema, saved.best, saved.early):
        checkpoint.check_like(part or saved.model, saved.model, folder)
