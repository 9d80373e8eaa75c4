"""The state of a training, and one step of it: weights, their average, what moves them, the best
so far."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from triptych.train.batches import Batches, Inputs, TrainingData, at_step
from triptych.train.capture import Captured
from triptych.train.compiling import can_compile, compiled
from triptych.train.distributed import (
    check_batch,
    image_dimensions,
    leads,
    mine,
    share,
    summed,
    world,
)
from triptych.train.ensemble import Ensemble
from triptych.train.optimizers import optimizers
from triptych.train.order import (
    VALIDATION,
    TrainConfig,
    batch_indices,
    ema_decay,
    generator_for,
    learning_rate,
    state_of,
    total_steps,
)
from triptych.train.precision import bf16_helps

WORTH_COMPILING = 10_000  # steps: compiling takes a minute
VALIDATED = 500  # images at a time
Values = Mapping[str, float]
Listener = Callable[[int, Values], None]


def nobody(step: int, values: Values) -> None:
    """Hears and does nothing."""


def check_parts(model: nn.Module) -> None:
    """Refuse a parameter that a model has twice, as seeds that are stacked would train both copies;
    and a loss that is of a batch, not of each of its images."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if (first := names.setdefault(id(parameter), name)) != name:
            raise ValueError(f"{first} and {name} are one parameter; hold its module in one place")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no parameters to train")
    for name, module in model.named_modules():
        # In evaluation mode, as a trained VAE's is, it is a constant map of each image.
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"{name} makes an image's loss one of all images of a batch; choose GroupNorm or "
                f"LayerNorm"
            )


@dataclass
class Run:
    """One seed's place on disk, who else is told what it logs, its best validation loss so far."""

    seed: int
    folder: Path
    listener: Listener = nobody
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    early: dict[str, Tensor] = field(default_factory=dict)


class Trainer:
    """Trains an ensemble of seeds of one model; `fit` is the way in."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        runs: Sequence[Run],
        data: TrainingData,
        config: TrainConfig,
    ) -> None:
        self.runs, self.data, self.config = list(runs), data, config
        self.device = data.images.device
        self.steps = total_steps(config, len(data.images))
        self.step, self.seconds = 0, 0.0
        if len(set(map(id, models))) < len(models):
            raise ValueError("each seed needs a model of its own, and one is given twice")
        if world() > 1 and len(models) > 1:
            raise ValueError("seeds side by side are trained by one process, not by several")
        for model in models:
            check_parts(model)
        check_batch(config.batch_size)
        self.use(models)

    def use(self, models: Sequence[nn.Module]) -> None:
        """(Re)build the stack, its average and its optimizer around these models."""
        on_gpu = self.device.type == "cuda"
        for model in models if on_gpu else ():
            # The layout in which tensor cores read convolutions.
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.models, self.ensemble = list(models), Ensemble(models)
        self.batches = Batches(self.data, self.config, self.steps, models[0])
        self.generators = [torch.Generator(self.device) for _ in models]
        self.losses, self.captured = self.ensemble.losses, None
        if on_gpu and world() == 1:
            self.captured = Captured(self.device, self.generators)
        long = self.steps >= WORTH_COMPILING and world() == 1
        self.compiles = long and can_compile(self.device)
        if self.compiles:
            self.losses = compiled(self.losses)
        self.images_at = self._images_at() if world() > 1 else None
        self.ema = [p.detach().clone() for p in self.ensemble.parameters]
        bf16 = self.config.bf16 and bf16_helps(self.device)
        self.optimizers = optimizers(self.ensemble, self.config, bf16)
        # The step at which a number was not finite, -1 while there was none; and in which seeds.
        self.first_bad = torch.full((), -1, device=self.device)
        self.bad = torch.zeros(len(models), dtype=torch.bool, device=self.device)

    # --- one step ---

    def batch(
        self, run: Run, step: int, size: int | None = None, bent: bool = True
    ) -> tuple[Tensor, Any]:
        """The images and the noise of one step of one seed."""
        inputs = self.batches.inputs([run.seed], step, size, bent)
        x, noise = self.batches.draw(inputs, [generator_for(run.seed, step, self.device)])
        return x[0], tree_map(lambda leaf: leaf[0], noise)

    def train_step(self) -> Tensor:
        """One optimizer step of all seeds; returns the per-seed mean loss, still on the device."""
        seeds = [run.seed for run in self.runs]
        for seed, generator in zip(seeds, self.generators, strict=True):
            generator.manual_seed(state_of(seed, self.step))
        inputs = self.batches.inputs(seeds, self.step)
        lr = learning_rate(self.config, self.step, self.steps)
        arguments = (inputs, self.step, lr, 1 - ema_decay(self.config, self.step))
        captured = self.captured
        losses = captured(self._update, *arguments) if captured else self._update(*arguments)
        self.step += 1
        return losses

    def _update(
        self, inputs: Inputs, step: int | Tensor, lr: float | Tensor, fresh: float | Tensor
    ) -> Tensor:
        """What a step does on the device: everything in place, so that it can be captured.

        `fresh` is the share of the average that the new weights are. The first non-finite number
        freezes the weights where they are, so that the step can be found and repeated later.
        """
        x, noise = self.batches.draw(inputs, self.generators)
        if self.images_at is not None:
            x, noise = share(x, 1), tree_map(share, noise, self.images_at)
        losses = self.losses(x, noise).mean(1)
        losses.sum().backward()
        losses = summed(losses.detach()) / world()
        norms = self.ensemble.clip_grad_norm_(self.config.clip)
        bad = ~(norms.isfinite() & losses.isfinite())
        none_yet = self.first_bad < 0
        self.bad.copy_(torch.where(none_yet, bad, self.bad))
        self.first_bad.copy_(torch.where(none_yet & bad.any(), step, self.first_bad))
        frozen = (self.first_bad >= 0).float()
        for optimizer in self.optimizers:
            optimizer.step(lr, frozen)
        for p in self.ensemble.parameters:
            p.grad = None
        lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
        weight = (fresh * (1 - frozen)).to(self.ema[0].dtype)
        lerp(self.ema, self.parameters(), [weight] * len(self.ema))
        return losses

    def parameters(self) -> list[Tensor]:
        """What is being trained, out of autograd's sight."""
        return [p.detach() for p in self.ensemble.parameters]

    def moments(self) -> list[dict[str, Tensor]]:
        """What its optimizer keeps of each parameter."""
        kept = {p: state for o in self.optimizers for p, state in o.state.items()}
        return [kept[p] for p in self.ensemble.parameters]

    def _images_at(self) -> Any:
        """Which dimension of each leaf of a step's noise counts images, of which this process
        computes its share."""
        g, at = generator_for(0, 0, self.device), at_step(self.models[0], 0.0)
        return image_dimensions(lambda n: self.batches.noise(n, dict(at), [g]))

    # --- validation ---

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Mean loss of the averaged weights on the validation images, under fixed noise."""
        n, total = len(self.data.validation), torch.zeros(len(self.runs), device=self.device)
        with self.ensemble.holding(self.ema):
            for start in mine(range(0, n, VALIDATED)):
                total += self.ensemble.losses(*self._validation(start)).sum(1)
        return (summed(total) / n).tolist()

    @torch.no_grad()
    def validation_terms(self) -> dict[str, list[float]]:
        """The means of the terms of that loss, where it has several, over the first images."""
        with self.ensemble.holding(self.ema):
            terms = self.ensemble.terms(*self._validation(0))
        means = {name: term.flatten(1).mean(1).tolist() for name, term in terms.items()}
        return means if len(means) > 1 else {}

    def _validation(self, start: int) -> tuple[Tensor, Any]:
        """Some of the validation images from `start` on and their noise, the same for all seeds.
        The images are in random order, as the times of a diffusion rise with the place in a batch.
        """
        which = batch_indices(VALIDATION, 0, len(self.data.validation), len(self.data.validation))
        images = self.data.validation[which[start : start + VALIDATED].to(self.device)]
        g = generator_for(VALIDATION, start, self.device)
        x = self.data.view(images, self.data.levels, g)
        noise = self.models[0].noise(len(images), g)  # pyright: ignore
        if at := at_step(self.models[0], 1.0):
            noise |= {name: x.new_tensor(value) for name, value in at.items()}
        return tree_map(lambda a: a.expand(len(self.runs), *a.shape), (x, noise))

    def keep_best(self, losses: Sequence[float]) -> None:
        """Remember the averaged weights of the seeds that have never been better."""
        for s, (run, loss) in enumerate(zip(self.runs, losses, strict=True)):
            if loss < run.best_loss:
                run.best_loss = loss
                run.best = self.average(s)

    def keep_early(self) -> None:
        """Remember the averaged weights once, when so much of the training is over."""
        early = self.config.early
        if early is not None and self.step >= early * self.steps:
            for s, run in enumerate(self.runs):
                run.early = run.early or self.average(s)

    def average(self, s: int) -> dict[str, Tensor]:
        """A copy of the s-th seed's averaged weights."""
        return {k: v.detach().clone() for k, v in self.ensemble.full_state(s, self.ema).items()}

    def log(self, **values: Any) -> None:
        """A line in each seed's metrics.jsonl; lists hold one value for each seed."""
        if not leads():
            return
        for s, run in enumerate(self.runs):
            line = {k: v[s] if isinstance(v, list) else v for k, v in values.items()}
            with open(run.folder / "metrics.jsonl", "a") as f:
                f.write(json.dumps({"step": self.step, **line}) + "\n")
            run.listener(self.step, line)
