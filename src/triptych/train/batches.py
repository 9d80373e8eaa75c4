"""What a step of each seed sees, its images and its noise: functions of (seed, step) alone.

A step's `Inputs` are worked out on the host; `draw` makes the batch of them on the device, as a
part of what a GPU captures: it reads no number back, and changes shape with nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map

from triptych.data.augment import bend, bend_noise
from triptych.data.views import View
from triptych.train.order import TrainConfig, batch_indices, bent_share


@dataclass(frozen=True)
class TrainingData:
    """Integer images on the device, the view that a model sees, and the number of levels."""

    images: UInt8[Tensor, "N C H W"]
    validation: UInt8[Tensor, "V C H W"]
    view: View
    levels: int


class Inputs(NamedTuple):
    """Of a step: which images each seed sees, how many of them are bent, what the objective says
    of the time (see `at_step`)."""

    which: Int[Tensor, "S B"]
    bent: int | Tensor
    at: dict[str, float | Tensor]


class Batches:
    """The batches of a training of `steps` steps."""

    def __init__(
        self, data: TrainingData, config: TrainConfig, steps: int, model: nn.Module
    ) -> None:
        self.data, self.config, self.steps, self.model = data, config, steps, model
        self.device = data.images.device

    def inputs(
        self, seeds: Sequence[int], step: int, size: int | None = None, bent: bool = True
    ) -> Inputs:
        """Those of a step; `size` images in place of a batch, `bent` where the config asks."""
        B, n = size or self.config.batch_size, len(self.data.images)
        which = torch.stack([batch_indices(seed, step, B, n) for seed in seeds])
        share = bent_share(self.config, step, self.steps) if bent else 0.0
        return Inputs(which, round(share * B), dict(at_step(self.model, step / self.steps)))

    def draw(self, inputs: Inputs, generators: Sequence[Generator]) -> tuple[Tensor, Any]:
        """Images as a model sees them [S, B, C, H, W], and noise with S in front of every leaf."""
        which, bent, at = inputs
        B, places = which.shape[1], which.flatten().to(self.device)
        images = self.data.images.index_select(0, places).unflatten(0, which.shape)
        if self.config.bent:  # of images in random order
            draws = torch.stack([bend_noise(B, g) for g in generators])
            images = some_bent(images, bent, draws)
        view, levels = self.data.view, self.data.levels
        seen = [view(x, levels, g) for x, g in zip(images, generators, strict=True)]
        return torch.stack(seen), self.noise(B, at, generators)

    def noise(self, n: int, at: dict[str, float | Tensor], generators: Sequence[Generator]) -> Any:
        """The noise of n images of each seed, as their losses take it."""
        drawn = [step_noise(self.model, n, g) for g in generators]
        noise = tree_map(lambda *leaves: torch.stack(leaves), *drawn)
        every = torch.ones(len(generators), device=self.device)
        return noise | {k: value * every for k, value in at.items()} if at else noise


def some_bent(
    images: UInt8[Tensor, "S B C H W"], n: int | Tensor, draws: Tensor
) -> UInt8[Tensor, "S B C H W"]:
    """n of each seed's images bent. Where n is a tensor, and may not be read, all are bent and n
    of them taken."""
    S, B = images.shape[:2]
    chosen = evenly(n, B, images.device)
    if not isinstance(n, int):
        bent = bend(images.flatten(0, 1), draws.flatten(0, 1)).unflatten(0, (S, B))
        return torch.where(chosen.view(B, 1, 1, 1), bent, images)
    if n == 0:
        return images
    these = chosen.nonzero()[:, 0]
    bent = bend(images[:, these].flatten(0, 1), draws[:, these].flatten(0, 1))
    return images.index_copy(1, these, bent.unflatten(0, (S, n)))


def evenly(n: int | Tensor, B: int, device: torch.device) -> Bool[Tensor, "B"]:
    """n of B places, spread evenly, as noise may be ordered (the times of a DDPM are): the number
    among any L places in a row differs from L n / B by less than one."""
    # B // 2 treats both ends alike: without it the last place would be chosen at every n > 0.
    edges = (torch.arange(B + 1, device=device) * n + B // 2) // B
    return edges[1:] > edges[:-1]


def step_noise(model: Any, n: int, generator: Generator) -> Any:
    """The noise of n images in training: with that of dropout, which is of training alone."""
    noise = model.noise(n, generator)
    if drops := getattr(model, "drops", 0):
        noise["dropout"] = torch.rand(n, drops, generator=generator, device=generator.device)
    return noise


def at_step(model: Any, progress: float) -> dict[str, float]:
    """What the objective, if there is one, adds to the noise when `progress` of the training is
    done."""
    at = getattr(getattr(model, "objective", None), "at", None)
    return {} if at is None else at(progress)
