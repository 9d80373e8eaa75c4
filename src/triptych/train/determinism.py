"""The same numbers again on a GPU, whose threads end in no fixed order; a CPU gives them anyway."""

import os

import torch


def deterministic(wanted: bool) -> None:
    """If wanted, use only operations that always give the same for the rest of this process.

    Raises (later, where one has no such version): RuntimeError, which `faults.explain` knows.
    """
    if wanted:
        # cuBLAS reads it when it is first used (https://docs.nvidia.com/cuda/cublas, on results).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
