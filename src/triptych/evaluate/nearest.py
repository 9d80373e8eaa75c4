"""Does a model repeat its training images? Each sample beside the nearest of them."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Nearest(NamedTuple):
    """Euclidean distance to the nearest of some images, and which one it is."""

    distance: Float[Tensor, "N"]
    which: Int[Tensor, "N"]


def nearest(x: Float[Tensor, "N C H W"], among: Float[Tensor, "T C H W"]) -> Nearest:
    """For each x, pixel by pixel, in chunks of `among`."""
    flat, best = x.flatten(1), []
    for i, chunk in enumerate(among.split(10_000)):
        distance, index = torch.cdist(flat, chunk.flatten(1)).min(1)
        best.append((distance, index + 10_000 * i))
    distances, indices = (torch.stack(column) for column in zip(*best, strict=True))
    distance, chunk = distances.min(0)
    return Nearest(distance, indices.gather(0, chunk[None])[0])
