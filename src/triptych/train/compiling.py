"""Fewer passes over the same numbers: torch.compile fuses the kernels of a loss and its gradient,
for which it needs up to a minute and the machine's compiler.

It is used on a GPU alone. On a CPU it makes an MLP's steps a sixth shorter, but such a training
lasts hardly longer than the compiling; steps of convolutions, whose trainings are long, it makes no
shorter.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Tensor

MOST_COMPILED = 64  # models in a process


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs on this machine: a GPU, Triton and a C compiler."""
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return False
    return find_spec("triton") is not None and any(map(which, ("cc", "gcc", "clang")))


def compiled(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """f with its kernels fused; as it is, where torch.compile fails, which is said."""
    from torch._dynamo import config  # here, for it takes seconds to import
    from torch._dynamo.exc import TorchDynamoException

    # One for each model of a study; a model that was compiled before is known again.
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, MOST_COMPILED)
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
