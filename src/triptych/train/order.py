"""What a step does as a function of (seed, step): its images, its noise, its learning rate.

Nothing here has state, so a run can stop anywhere and go on exactly, and seeds in a stack see
what they would see alone.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Int
from torch import Generator, Tensor

VALIDATION = 2**31  # a seed no run has: the noise of validation


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Steps follow from epochs: each epoch sees every image once."""

    epochs: Annotated[float, Gt(0), Le(1e6)] = 20
    batch_size: Annotated[int, Ge(1), Le(100_000)] = 128
    lr: Annotated[float, Gt(0), Le(10)] = 2e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all weights, or Muon for those of linear layers and convolutions."""
    weight_decay: Annotated[float, Ge(0), Le(10)] = 0.01
    warmup: Annotated[float, Ge(0), Le(1)] = 0.05
    """Share of all steps in which the learning rate rises from 0; then a cosine falls to 0."""
    clip: Annotated[float, Gt(0), Le(1e9)] = 100.0
    """Largest norm of one seed's gradient."""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the weight average once warm; at step n it is at most (1 + n) / (10 + n)."""
    early: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of all steps after which the weight average is kept as it is then: a worse version of
    the model, to guide it (`samplers.Autoguidance`)."""
    bent: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the training images that are bent a little (`data.augment`) at first, so that fewer
    are learned by heart; it falls to 0, and so does what bent images cost at the end."""
    bf16: bool = True
    """Networks in bfloat16 where the hardware has it."""


class Stream(IntEnum):
    """What the numbers of a generator are for. Never to be renumbered: published numbers hold for
    these."""

    TRAINING = 0
    SHUFFLES = 1
    CLASSIFIER_SHIFTS = 2
    VIEWS = 3
    BOUNDS = 4
    SAMPLES = 5
    TRAINING_IMAGES = 6
    RECONSTRUCTIONS = 7


def generator_for(
    seed: int, step: int, device: torch.device, stream: Stream = Stream.TRAINING
) -> Generator:
    """The generator of one step of one seed, the same whenever it is asked for."""
    return torch.Generator(device).manual_seed(state_of(seed, step, stream))


def state_of(seed: int, step: int, stream: Stream = Stream.TRAINING) -> int:
    """What that generator is seeded with."""
    return int(np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0])


def batch_indices(seed: int, step: int, batch: int, n: int) -> Int[Tensor, "B"]:
    """Positions step * batch .. (step + 1) * batch in an endless row of shuffles of n images."""
    first, parts = step * batch, []
    while batch > 0:
        epoch, offset = divmod(first, n)
        parts.append(_shuffle(seed, epoch, n)[offset : offset + batch])
        first, batch = first + len(parts[-1]), batch - len(parts[-1])
    return torch.cat(parts)


@lru_cache(maxsize=64)
def _shuffle(seed: int, epoch: int, n: int) -> Int[Tensor, "n"]:
    """One epoch's order; kept, because every step of the epoch and every seed asks for its own."""
    return torch.randperm(
        n, generator=generator_for(seed, epoch, torch.device("cpu"), stream=Stream.SHUFFLES)
    )


def total_steps(config: TrainConfig, n: int) -> int:
    """How many steps see n images `epochs` times."""
    steps = config.epochs * n / config.batch_size
    return max(1, math.ceil(round(steps, 6)))  # 1.1 * 55,000 / 50 is a little more than 1,210


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def bent_share(config: TrainConfig, step: int, steps: int) -> float:
    """A straight line from `bent` to 0."""
    return config.bent * (1 - step / steps)


def ema_decay(config: TrainConfig, step: int) -> float:
    """Short memory at first, so that the average never carries the initial noise along."""
    return min(config.ema, (1 + step) / (10 + step))
