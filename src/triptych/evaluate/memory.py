"""Evaluation in the memory that there is: as much at a time as suits the caches, and what does not
fit in halves."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from triptych.protocols import Likelihood
from triptych.train.faults import is_out_of_memory

ROWS = 4_000  # latent samples decoded at a time, at most: 12 MB of 28x28 logits
ROWS_ON_GPU = 100_000  # the same on a GPU, to keep it busy
NUMBERS = 5_000_000  # of a layer's outputs at a time on a CPU: 20 MB, which its caches like
NUMBERS_ON_GPU = 250_000_000  # the same on a GPU: a gigabyte, of which a few are held at a time


def in_halves(f: Callable[..., Any], *rows: Tensor) -> Any:
    """f(*rows), for an f that takes its rows one by one: at once or, where memory runs out, the
    first half of them and then the second."""
    try:
        return f(*rows)
    except (MemoryError, RuntimeError) as error:
        if len(rows[0]) < 2 or not is_out_of_memory(error):
            raise
    # Out here the traceback, and what it held, is gone.
    half = len(rows[0]) // 2
    parts = [in_halves(f, *(r[:half] for r in rows)), in_halves(f, *(r[half:] for r in rows))]
    return tree_map(lambda *both: torch.cat(both), *parts)


def drawn_in_halves(draw: Callable[[int], Any], n: int) -> Any:
    """draw(n): at once or, where memory runs out, half of them and then the other."""
    return in_halves(lambda rows: draw(len(rows)), torch.arange(n))


def rows_at_a_time(likelihood: Likelihood, x: Tensor, latent_dim: int) -> int:
    """As many latent samples as the widest layer of the decoder allows: convolutions are wide. `x`
    is an image to try it with."""
    widest = 1

    def compare(module: Any, args: Any, out: Any) -> None:
        nonlocal widest
        widest = max(widest, out.numel() if isinstance(out, Tensor) else 1)

    layers = likelihood.modules()  # pyright: ignore[reportAttributeAccessIssue]
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(compare).remove)
        likelihood.log_prob(x, x.new_zeros(1, latent_dim))
    on_cpu = x.device.type == "cpu"
    most, numbers = (ROWS, NUMBERS) if on_cpu else (ROWS_ON_GPU, NUMBERS_ON_GPU)
    return max(1, min(most, numbers // widest))
