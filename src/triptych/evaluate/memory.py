"""Evaluation in less memory: what does not fit is done in halves."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from triptych.train.faults import is_out_of_memory


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
