"""How fast a model draws."""

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from triptych.protocols import Score

BATCH, LAPS, MOST_LAPS = 64, 3, 300
LEAST = 0.3  # seconds
T = TypeVar("T")


def sampling_speed(
    draw: Callable[[int], Tensor], device: torch.device, protocol: dict[str, Any]
) -> Score:
    """Samples a second by the clock, from the median time of a batch, the device waited for.

    The first batch is not counted. Three are, or as many as a fast model draws in 0.3 seconds, 300
    at most. The number holds for this machine, as busy as it was.
    """
    clocked(lambda: draw(BATCH), device)
    laps: list[float] = []
    while len(laps) < LAPS or (sum(laps) < LEAST and len(laps) < MOST_LAPS):
        laps.append(clocked(lambda: draw(BATCH), device)[1])
    seconds = statistics.median(laps)
    how = {"device": device.type, "threads": torch.get_num_threads(), "n": BATCH}
    return Score("samples-per-second", BATCH / seconds, "1/s", None, protocol | how)


def clocked(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What comes of it, and its seconds, the device waited for."""
    began = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - began
