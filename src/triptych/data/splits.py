"""Splits that keep the proportions of the classes."""

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from triptych.errors import UserError


def stratified_split(
    labels: Integer[Tensor, "N"], n: int, seed: int
) -> tuple[Int64[Tensor, "R"], Int64[Tensor, "V"]]:
    """Hold out n of N images: (indices of the rest, indices held out), both ascending.

    Class c gives floor or ceil of n N_c / N images, the largest remainders being rounded up
    (ties: the smaller label). The indices are on the device of the labels.

    Raises:
        UserError: n is not between 0 and N.
    """
    classes = labels.cpu().numpy()
    if not 0 <= n <= len(classes):
        raise UserError(f"cannot hold out {n} of {len(classes)} images: choose 0 to {len(classes)}")
    # RandomState, because numpy promises that its stream never changes; torch and default_rng
    # make no such promise, and a split that moved with a version would leak test images.
    random = np.random.RandomState(seed)
    held_out = np.zeros(len(classes), dtype=bool)
    names, counts = np.unique(classes, return_counts=True)
    for name, share in zip(names, _shares(counts, n), strict=True):
        members = np.flatnonzero(classes == name)
        held_out[random.permutation(members)[:share]] = True
    rest, held = (torch.from_numpy(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    return rest.to(labels.device), held.to(labels.device)


def _shares(counts: np.ndarray, n: int) -> np.ndarray:
    """n seats for classes of these sizes, by largest remainder, in integers throughout."""
    total = max(int(counts.sum()), 1)
    shares, remainders = np.divmod(counts.astype(np.int64) * n, total)
    rounded_up = np.argsort(-remainders, kind="stable")[: n - int(shares.sum())]
    shares[rounded_up] += 1
    return shares
