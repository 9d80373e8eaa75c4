"""A training step without the time between its kernels, of which there are hundreds, small ones.

On a GPU the whole step, loss to weight average, is captured as a CUDA graph (Nguyen et al. 2021,
*Accelerating PyTorch with CUDA Graphs*) and launched at once. What changes from step to step must
then be a tensor that stays where it is: `Captured` keeps one for each argument and copies into it.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

WARM_UP = 3  # calls before the capture: they allocate what is allocated once, and compile


class Captured:
    """`step(*arguments)`, whose leaves are numbers and tensors, as a CUDA graph.

    Its tensors must keep their places: what it changes, it changes in place. The result is copied,
    so that it outlives the next call. The step draws from these `generators` alone, which may be
    seeded anew before each call.
    """

    def __init__(self, step: Callable[..., Tensor], generators: Sequence[Generator]) -> None:
        self.step, self.device, self.calls = step, generators[0].device, 0
        self.graph, self.stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)
        for generator in generators:
            self.graph.register_generator_state(generator)

    def __call__(self, *arguments: Any) -> Tensor:
        """A step: of the first few the kernels are launched one by one."""
        leaves, spec = tree_flatten(arguments)
        if self.calls == 0:
            self.places = [torch.as_tensor(leaf, device=self.device).clone() for leaf in leaves]
            self.arguments = tree_unflatten(self.places, spec)
        for place, leaf in zip(self.places, leaves, strict=True):
            if isinstance(leaf, Tensor):
                place.copy_(leaf, non_blocking=True)
            else:
                place.fill_(leaf)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._on_stream()
        if self.calls == WARM_UP + 1:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.result = self.step(*self.arguments)
        self.graph.replay()
        return self.result.clone()

    def _on_stream(self) -> Tensor:
        """The step on the stream of the capture, as autograd wants it warmed up."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = self.step(*self.arguments)
        here.wait_stream(self.stream)
        return result.clone()


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs on this machine: a GPU, Triton and a C compiler."""
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return False
    return find_spec("triton") is not None and any(map(which, ("cc", "gcc", "clang")))
