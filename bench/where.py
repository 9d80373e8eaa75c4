"""The device that is measured: `python bench/run.py`, or `python bench/run.py cuda`."""

import sys

import torch

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
ON_GPU = DEVICE.type == "cuda"


def finish() -> None:
    """Wait for what was asked of the device."""
    if ON_GPU:
        torch.cuda.synchronize()
