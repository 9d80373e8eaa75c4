"""Where the time of a round goes, and how near it comes to this core's matrix products."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

GROUPS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "convolution"),
    "casts and copies": ("aten::copy_",),
    "Adam, clipping, average": ("adamw", "AdamW", "lerp", "vector_norm", "aten::mul_"),
}


def anatomy(round_: Callable[[], Any], seconds: float) -> str:
    """Products a second as a share of the core's in bfloat16, and the round's time in groups."""
    with FlopCounterMode(display=False) as counter:
        round_()
    rate = counter.get_total_flops() / seconds / 1e9
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        round_()
    spent = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
    total = sum(spent.values())
    shares = {
        group: sum(us for name, us in spent.items() if any(part in name for part in parts)) / total
        for group, parts in GROUPS.items()
    }
    shares["the rest"] = 1 - sum(shares.values())
    where = ", ".join(f"{group} {share:.0%}" for group, share in shares.items())
    share = rate / ceilings()["bfloat16"]
    return f"{rate:.0f} GFLOP/s, {share:.0%} of the ceiling; time: {where}"


@functools.cache
def ceilings() -> dict[str, float]:
    """GFLOP/s of this core's matrix products on the shapes of the course's network."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = torch.randn(128, 784).to(dtype), torch.randn(784, 512).to(dtype)
        laps = []
        for _ in range(300):
            began = time.perf_counter()
            a @ b
            laps.append(time.perf_counter() - began)
        found[name] = round(2 * a.numel() * 512 / statistics.median(laps) / 1e9)
    return found
