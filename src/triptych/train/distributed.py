"""One run over several devices: `torchrun --nproc-per-node N -m triptych train ...`.

Every process holds the whole model. It makes the images and the noise of the whole batch, as one
process would, and takes its share of them; DistributedDataParallel (Li et al. 2020,
arXiv:2006.15704) averages the gradients. So N processes follow the loss curve of one, at the same
batch size, up to the rounding of sums. The first process alone writes.

In a process that torchrun did not start there is a world of one, and nothing here does anything.
"""

import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # after a group is made, its functions would hold it as their default
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from triptych.errors import RunFailed, UserError
from triptych.train.signals import sigterm_waits

AGREE_EVERY = 8  # steps between two questions whether to save or to stop: each waits for the device


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, if it did, each with a device of its own.

    Raises:
        UserError: there is no device for each.
        RunFailed: another process cannot be reached.
    """
    if "LOCAL_RANK" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    backend = choose_device(device, int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group(backend)
        yield
    except RuntimeError as error:
        if not lost(error):
            raise
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunFailed(
            f"another process of this training cannot be reached ({why}); if it ended, it said why"
        ) from error
    finally:
        if dist.is_initialized():
            # The group joins its threads here only if nothing else still holds it. Else it does so
            # when its last holder goes: it may then wait for a thread that waits for Python, or
            # free its tensors while the interpreter shuts down, which aborts the process.
            with sigterm_waits():
                let_go(sys.exception())
                gc.collect()
                dist.destroy_process_group()


def let_go(error: BaseException | None) -> None:
    """Drop what the frames that an error came through hold, a model that trains among it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def choose_device(device: str, local_rank: int) -> str:
    """Take this process's device; returns the library that carries messages between them."""
    if device == "cpu":
        return "gloo"
    if device != "cuda":
        raise UserError(f"--device {device} cannot train with others; choose cpu or cuda")
    there = torch.cuda.device_count()
    if local_rank >= there:
        raise UserError(
            f"--device cuda has {there} GPUs for {os.environ.get('LOCAL_WORLD_SIZE', 'more')} "
            f"processes here; choose torchrun --nproc-per-node {max(there, 1)}, or --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return "nccl"


def lost(error: RuntimeError) -> bool:
    """Whether a process could not be reached."""
    return isinstance(error, dist.DistError) or "Connection" in str(error)


def world() -> int:
    """How many processes train the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


def summed(values: Tensor) -> Tensor:
    """The sum over the processes."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def anyone(wants: bool, device: torch.device) -> bool:
    """Whether any process wants it: all get the same answer."""
    return bool(summed(torch.tensor(float(wants), device=device)).item())


def check_batch(size: int) -> None:
    """Raises UserError where a batch cannot be shared out evenly."""
    if size % world():
        raise UserError(
            f"batch_size = {size} cannot be shared by {world()} processes; choose a multiple of "
            f"{world()}"
        )


def image_dimensions(noise: Callable[[int], Any]) -> Any:
    """The dimension of each leaf of a model's noise that counts images; -1 if it has none.

    It is the one that grows with the number of images.
    """

    def growing(small: Tensor, large: Tensor) -> int:
        pairs = zip(small.shape, large.shape, strict=True)
        return next((d for d, (a, b) in enumerate(pairs) if a != b), -1)

    return tree_map(growing, noise(2), noise(3))


def share(leaf: Tensor, dimension: int) -> Tensor:
    """This process's part of a leaf: every N-th image, so that what is ordered (the times of a
    DDPM) is spread evenly. A leaf without images is everybody's."""
    if world() == 1 or dimension < 0:
        return leaf
    every = torch.arange(dist.get_rank(), leaf.shape[dimension], world(), device=leaf.device)
    return leaf.index_select(dimension, every)


def mine(pieces: Sequence[int]) -> Sequence[int]:
    """Every N-th piece of some work: this process's."""
    return pieces[dist.get_rank() :: world()] if world() > 1 else pieces


def parallel(loss: nn.Module, device: torch.device) -> nn.Module:
    """A module whose gradients are averaged over the processes; as it is in a world of one."""
    if world() == 1:
        return loss
    ids = [torch.cuda.current_device()] if device.type == "cuda" else None
    # Of a 1x1 convolution: the same numbers in another layout, which torch copies, and warns of.
    warnings.filterwarnings("ignore", "Grad strides do not match")
    # Which weights a loss uses never changes during a training, and not all models use all.
    shared = DistributedDataParallel(loss, ids, static_graph=True)
    shared.broadcast_buffers = False  # they are alike; as an argument it has two names
    return shared
