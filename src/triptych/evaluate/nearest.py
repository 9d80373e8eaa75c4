"""Does a model repeat its training images? Each sample beside the nearest of them."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROWS, COLUMNS = 1_000, 10_000  # of distances at a time


class Nearest(NamedTuple):
    """Euclidean distance to the nearest of some images, and which one it is."""

    distance: Float[Tensor, "N"]
    which: Int[Tensor, "N"]


class Share(NamedTuple):
    """A share of some distances below a quantile of others."""

    value: float
    own_std: float
    """Its standard error from the number of the former alone."""
    std: float
    """Its standard error, with that of the quantile too."""
    usual: float
    """Its mean where both are of one distribution."""


def nearest(x: Float[Tensor, "N C H W"], among: Float[Tensor, "T C H W"]) -> Nearest:
    """For each x, pixel by pixel, in chunks of both."""
    flat, found = among.flatten(1), []
    for some in x.flatten(1).split(ROWS):
        best = []
        for i, chunk in enumerate(flat.split(COLUMNS)):
            distance, index = torch.cdist(some, chunk).min(1)
            best.append((distance, index + COLUMNS * i))
        distances, indices = (torch.stack(column) for column in zip(*best, strict=True))
        which = indices.gather(0, distances.min(0).indices[None])[0]
        # cdist's matrix product leaves a copy some thousandths away
        found.append(((some - flat[which]).norm(dim=1), which))
    return Nearest(*(torch.cat(column) for column in zip(*found, strict=True)))


def share_nearer(a: Float[Tensor, "N"], b: Float[Tensor, "M"], quantile: float) -> Share:
    """The share of distances a below this quantile of distances b.

    Distances of binary images are roots of integers, and many equal the quantile: of those, the
    same fraction of a counts as b needs to reach it. The error has two parts: half of what the
    share changes by when the quantile moves by its own standard error either way, and the binomial
    error of the share, with one more counted on either side, since that of a share of 0 would be 0.
    """
    n, m, rising = len(a), len(b), b.sort().values

    def place(p: float) -> int:
        return min(max(math.ceil(p * m - 1e-9), 1), m)

    def below(p: float) -> float:
        edge = rising[place(p) - 1]
        a_below, a_equal = _share(a < edge), _share(a == edge)
        b_below, b_equal = _share(b < edge), _share(b == edge)
        return a_below + min(max((p - b_below) / b_equal, 0.0), 1.0) * a_equal

    share = below(quantile)
    error = math.sqrt(quantile * (1 - quantile) / m)
    moved = (below(quantile + error) - below(quantile - error)) / 2
    p = (n * share + 1) / (n + 2)
    own = math.sqrt(p * (1 - p) / n)
    return Share(share, own, math.hypot(own, moved), place(quantile) / (m + 1))


def _share(which: Bool[Tensor, "N"]) -> float:
    return which.double().mean().item()
