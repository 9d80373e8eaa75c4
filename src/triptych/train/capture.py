"""Hundreds of small kernels without the time between them: a CUDA graph launches them at once.

On a GPU a training step is captured whole, from the batch to the weight average; so is a network
that a sampler calls. What changes from call to call must then be a tensor that stays where it is:
`Captured` keeps one for each argument and copies into it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

WARM_UP = 3  # calls before the capture: they allocate what is allocated once, and compile


class Captured:
    """Calls of one function, whose arguments' leaves are numbers and tensors, as a CUDA graph.

    The function's tensors must keep their places: what it changes, it changes in place. The result
    is copied, so that it outlives the next call. It draws from these `generators` alone, which may
    be seeded anew before each call.
    """

    def __init__(self, device: torch.device, generators: Sequence[Generator] = ()) -> None:
        self.device, self.calls = device, 0
        self.graph, self.stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        for generator in generators:
            self.graph.register_generator_state(generator)

    def __call__(self, f: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """f(*arguments), always of the same f; in the first few calls its kernels are launched one
        by one."""
        leaves, spec = tree_flatten(arguments)
        if self.calls == 0:
            self.places = [torch.as_tensor(leaf, device=self.device).clone() for leaf in leaves]
            self.arguments = tree_unflatten(self.places, spec)
        for place, leaf in zip(self.places, leaves, strict=True):
            if isinstance(leaf, Tensor):
                place.copy_(leaf, non_blocking=True)
            else:
                place.fill_(leaf)
        if self.calls < WARM_UP:
            result = self._on_stream(f)
        else:
            if self.calls == WARM_UP:
                with torch.cuda.graph(self.graph, stream=self.stream):
                    self.result = f(*self.arguments)
            self.graph.replay()
            result = self.result.clone()
        self.calls += 1
        return result

    def _on_stream(self, f: Callable[..., Tensor]) -> Tensor:
        """f on the stream of the capture, as autograd wants it warmed up."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = f(*self.arguments)
        here.wait_stream(self.stream)
        return result.clone()


class CapturedCalls:
    """The calls of a network on a GPU as CUDA graphs, one for each kind of arguments, which outlive
    the times that they are in use."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.graphs: dict[Any, Captured] = {}

    @contextmanager
    def in_use(self, device: torch.device) -> Iterator[None]:
        """On another device, nothing changes."""
        forward, own = self.net.forward, self.net.__dict__.get("forward")

        def run(*arguments: Tensor) -> Tensor:
            kind = tuple((a.shape, a.dtype) for a in arguments)
            graph = self.graphs.pop(kind, None) or Captured(device)
            result = graph(forward, *arguments)
            self.graphs[kind] = graph  # and not one that failed, for want of memory it may be
            return result

        if device.type == "cuda":
            self.net.forward = run  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            if own is not None:
                self.net.forward = own
            else:
                self.net.__dict__.pop("forward", None)
