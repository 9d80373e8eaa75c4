"""Where the time of a round goes, and how near it comes to this core's matrix products."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from where import DEVICE, ON_GPU, finish

GEMMS = ("gemm", "nvjet", "cutlass", "xmma", "fprop", "dgrad", "wgrad")  # in names of kernels
GROUPS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "convolution", *GEMMS),
    "casts and copies": ("aten::copy_", "copy_kernel", "Memcpy"),
    "Adam, clipping, average": ("dam", "lerp", "vector_norm", "aten::mul_", "multi_tensor"),
}


def anatomy(round_: Callable[[], Any], seconds: float) -> str:
    """Products a second as a share of the core's in bfloat16, and the round's time in groups."""
    if ON_GPU:
        return shares_of(gpu_times(round_))
    with FlopCounterMode(display=False) as counter:
        round_()
    rate = counter.get_total_flops() / seconds / 1e9
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        round_()
    spent = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
    share = rate / ceilings()["bfloat16"]
    return f"{rate:.0f} GFLOP/s, {share:.0%} of the ceiling; time: {shares_of(spent)}"


def gpu_times(round_: Callable[[], Any]) -> dict[str, float]:
    """Microseconds by the names of the kernels, those of a captured step too."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        round_()
        finish()
    return {event.key: event.self_device_time_total for event in recorded.key_averages()}


def shares_of(spent: dict[str, float]) -> str:
    """Shares of the time."""
    total = sum(spent.values())
    shares = {
        group: sum(us for name, us in spent.items() if any(part in name for part in parts)) / total
        for group, parts in GROUPS.items()
    }
    shares["the rest"] = 1 - sum(shares.values())
    return ", ".join(f"{group} {share:.0%}" for group, share in shares.items())


@functools.cache
def ceilings() -> dict[str, float]:
    """GFLOP/s of matrix products: of a core on the shapes of the course's network, of a GPU on
    large ones."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        m, k, n = (8192, 8192, 8192) if ON_GPU else (128, 784, 512)
        a, b = (torch.randn(size, device=DEVICE).to(dtype) for size in ((m, k), (k, n)))
        laps = []
        for _ in range(30 if ON_GPU else 300):
            began = time.perf_counter()
            a @ b
            finish()
            laps.append(time.perf_counter() - began)
        found[name] = round(2 * m * k * n / statistics.median(laps) / 1e9)
    return found
