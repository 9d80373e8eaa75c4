"""Fewer passes over the same numbers: torch.compile fuses the kernels of a loss and its gradient,
for which it needs up to a minute and the machine's compiler."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from sysconfig import get_path
from typing import Any

import torch
from torch import Tensor

MOST_COMPILED = 64  # models in a process
CXX = os.environ.get("CXX", "g++")  # as torch.compile finds it


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs on this machine: for a GPU Triton and a C compiler;
    for a CPU under Linux a C++ compiler and Python's headers."""
    if torch.are_deterministic_algorithms_enabled():
        return False
    if device.type == "cpu":
        headers = Path(get_path("include")) / "Python.h"
        return sys.platform == "linux" and which(CXX) is not None and headers.exists()
    has_triton = device.type == "cuda" and find_spec("triton") is not None
    return has_triton and any(map(which, ("cc", "gcc", "clang")))


def compiled(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """f with its kernels fused; as it is, where torch.compile fails, which is said."""
    import torch._inductor.config as inductor  # here, for they take seconds to import
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    # One for each model of a study; a model that was compiled before is known again.
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, MOST_COMPILED)
    if not torch.cuda.is_available():
        inductor.compile_threads = 1  # or there would be processes beside a study's own
    fused = torch.compile(f, dynamic=False)
    failed = []

    def run(*arguments: Any) -> Tensor:
        if not failed:
            try:
                return fused(*arguments)
            except (TorchDynamoException, OSError) as error:
                failed.append(error)
                told = "torch.compile has failed, and the training goes on without it"
                print(f"triptych: {told} ({type(error).__name__})", file=sys.stderr)
        return f(*arguments)

    return run
