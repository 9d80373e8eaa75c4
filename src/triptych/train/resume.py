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
    of_all = dict(zip(trainer.ensemble.names, trainer.moments(), strict=True))
    for s, run in enumerate(trainer.runs):
        moments = {
            f"{m}.{name}": trainer.ensemble.of_seed(s, moment)
            for name, kept in of_all.items()
            for m, moment in kept.items()
            if m != "step"
        }
        model = trainer.ensemble.full_state(s, trainer.parameters())
        ema = trainer.ensemble.full_state(s, trainer.ema)
        best = None if math.isinf(run.best_loss) else run.best_loss  # which JSON lacks
        loop = {"step": trainer.step, "best": best, "seconds": trainer.seconds}
        loop |= {"steps": trainer.steps, "seed": run.seed, "threads": torch.get_num_threads()}
        loop |= {"batch_size": trainer.config.batch_size}
        loop |= {"stack": [r.seed for r in trainer.runs], "world": world()}
        loop["deterministic"] = torch.are_deterministic_algorithms_enabled()
        if (log := run.folder / "metrics.jsonl").exists():
            flush(log)
        saved = Checkpoint(model, ema, run.best or ema, moments, loop, run.early)
        checkpoint.save(run.folder, saved)


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
        _check(trainer, c, run.folder)
        best = c.loop["best"]
        run.best_loss, run.early = math.inf if best is None else best, c.early
        run.best = c.best if math.isfinite(run.best_loss) else {}
    trainer.use(trainer.models)
    trainer.step, trainer.seconds = saved[0].loop["step"], saved[0].loop["seconds"]
    stacked = len(saved) > 1

    def take(place: Tensor, parts: Sequence[dict[str, Tensor]], name: str) -> None:
        tensors = [part[name] for part in parts]
        place.copy_(torch.stack(tensors) if stacked else tensors[0])

    places = zip(trainer.ensemble.names, trainer.ema, trainer.moments(), strict=True)
    for name, ema, moments in places:
        take(ema, [c.ema for c in saved], name)
        for m, moment in moments.items():
            if m == "step":
                moment.fill_(trainer.step)
            else:
                take(moment, [c.optimizer for c in saved], f"{m}.{name}")


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


def _check(trainer: Trainer, saved: Checkpoint, folder: Path) -> None:
    """Refuse what would not fit, or would be broadcast until it does."""
    state = saved.model
    kept = zip(trainer.ensemble.names, trainer.moments(), strict=True)
    moments = {f"{m}.{n}": state[n] for n, of_one in kept for m in of_one if m != "step"}
    checkpoint.check_like(saved.optimizer, moments, folder)
    for part in (saved.ema, saved.best, saved.early):
        checkpoint.check_like(part or state, state, folder)
