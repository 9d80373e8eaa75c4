"""What happens when a number stops being finite: the step is found, repeated and saved."""

from dataclasses import dataclass

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.utils._pytree import tree_flatten

from triptych.train.distributed import leads
from triptych.train.files import write_bytes
from triptych.train.resume import resume, save
from triptych.train.trainer import Run, Trainer


@dataclass(frozen=True)
class Failure:
    """A run that stopped because a number was no longer finite."""

    seed: int
    step: int
    term: str

    def __str__(self) -> str:
        return f"{self.term} was not finite at step {self.step}; failure.safetensors has the batch"


def drop_failed(trainer: Trainer) -> list[Failure]:
    """Go back to the step that failed, save what it saw, and go on with the other seeds.

    The weights have been frozen since that step, so a checkpoint of it is exact, and the seeds
    that go on simply resume from theirs.
    """
    trainer.step, bad = int(trainer.first_bad.item()), trainer.bad.tolist()
    save(trainer)
    failures, good = [], []
    for s, run in enumerate(trainer.runs):
        if not bad[s]:
            good.append(s)
            continue
        x, noise = trainer.batch(run, trainer.step)
        if leads():
            keep_batch(run, x, noise)
        failures.append(Failure(run.seed, trainer.step, non_finite_term(trainer, s, x, noise)))
    trainer.runs = [trainer.runs[s] for s in good]
    trainer.models = [trainer.models[s] for s in good]
    if good:
        resume(trainer)
    return failures


def non_finite_term(trainer: Trainer, s: int, x: Tensor, noise: object) -> str:
    """The first term of the loss, or the gradient of the first parameter, that is not finite, or
    their norm. There may be none: a seed alone rounds otherwise than in a stack, or compiled."""
    model = trainer.models[s]
    model.load_state_dict(trainer.ensemble.full_state(s, trainer.parameters()))
    for name, value in model.terms(x, noise).items():  # pyright: ignore[reportCallIssue]
        if not bool(torch.isfinite(value).all()):
            return name
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = model.loss(x, noise).mean()  # pyright: ignore[reportCallIssue]
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    grads = {n: g for n, g in zip(named, found, strict=True) if g is not None}
    for name, grad in grads.items():
        if not bool(grad.isfinite().all()):
            return f"the gradient of {name}"
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    finite = bool(norm.isfinite())
    return (
        "a number that is finite when the seed is alone" if finite else "the norm of the gradient"
    )


def keep_batch(run: Run, x: Tensor, noise: object) -> None:
    """Save the images and the noise of the step beside the run."""
    leaves, _ = tree_flatten(noise)
    tensors = {"x": x} | {f"noise.{i}": leaf for i, leaf in enumerate(leaves)}
    raw = to_bytes({k: v.cpu().contiguous() for k, v in tensors.items()})
    write_bytes(run.folder / "failure.safetensors", raw)
