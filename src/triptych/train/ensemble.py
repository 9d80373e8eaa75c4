"""Seeds side by side: S copies of one model whose parameters are stacked and mapped over with
`torch.func.vmap`, so that S small models cost a GPU about as much as one.

What makes this exact is that a loss draws nothing: each copy gets its own images and noise, and
the stack computes what S separate runs compute.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from triptych.train.distributed import parallel


class Ensemble:
    """One model, or several of the same build with a leading seed dimension on every parameter.

    `parameters` is what the optimizer sees: plain parameters for one model, stacked leaves for
    several. Persistent buffers belong to each seed, and so do parameters without a gradient, which
    stay as they are; non-persistent buffers are shared constants.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.model, self.size = models[0], len(models)
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.names = list(trained)
        self.wrapped: nn.Module = _Call(self.model, "loss")
        self.apart = _Call(self.model, "terms")
        if self.size == 1:
            self.parameters = list(trained.values())
            self.wrapped = parallel(self.wrapped, self.parameters[0].device)
            return
        states = [m.state_dict() for m in models]
        stacked = {k: torch.stack([s[k] for s in states]) for k in states[0]}
        self.parameters = [stacked.pop(n).requires_grad_() for n in self.names]
        self.buffers = stacked

    def losses(self, x: Float[Tensor, "S B C H W"], noise: Any) -> Float[Tensor, "S B"]:
        """Each copy's loss on its own images and noise (leading dimension S in all leaves)."""
        losses = self._of_each(self.wrapped, x, noise)
        if (found := list(losses.shape[1:])) != [x.shape[1]]:
            raise ValueError(f"a loss must be of shape {[x.shape[1]]}, one an image, not {found}")
        return losses

    def terms(
        self, x: Float[Tensor, "S B C H W"], noise: Any
    ) -> dict[str, Float[Tensor, "S *K B"]]:
        """The same taken apart, by the names of the terms."""
        return self._of_each(self.apart, x, noise)

    def _of_each(self, call: nn.Module, x: Tensor, noise: Any) -> Any:
        if self.size == 1:
            return tree_map(lambda a: a[None], call(x[0], tree_map(lambda a: a[0], noise)))

        def one(state: dict[str, Tensor], x: Tensor, noise: Any) -> Any:
            named = {f"model.{k}": v for k, v in state.items()}
            return functional_call(call, named, (x, noise))

        state = dict(zip(self.names, self.parameters, strict=True)) | self.buffers
        try:
            return vmap(one)(state, x, noise)
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            raise ValueError(
                "a layer draws random numbers of its own, as dropout does, and seeds side by side "
                "cannot share them; train one seed at a time, or take the draws from the noise"
            ) from error

    def clip_grad_norm_(self, max_norm: float) -> Float[Tensor, "S"]:
        """Clip each copy's gradient by its own norm; returns the norms before clipping."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.size == 1:
            of_each = torch._foreach_norm(grads)  # pyright: ignore[reportPrivateImportUsage]
            norms = torch.stack(of_each).norm()[None]
        else:
            norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in grads]).norm(dim=0)
        scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        if is_read_at_once(scale.device) and scale.eq(1).all():
            return norms
        if self.size == 1:
            torch._foreach_mul_(grads, scale[0])  # pyright: ignore[reportPrivateImportUsage]
        else:
            for g in grads:
                g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))
        return norms

    def state(self, s: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Copy s of `tensors` (one for each parameter), by name."""
        return {n: self.of_seed(s, t.detach()) for n, t in zip(self.names, tensors, strict=True)}

    def of_seed(self, s: int, tensor: Tensor) -> Tensor:
        """Copy s of what there is of a parameter."""
        return tensor if self.size == 1 else tensor[s]

    def full_state(self, s: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Like `state`, with copy s of the persistent buffers: a state dict of the model."""
        if self.size == 1:
            return self.model.state_dict() | self.state(s, tensors)
        return {k: v[s] for k, v in self.buffers.items()} | self.state(s, tensors)

    @contextmanager
    def holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Evaluate with other weights (the averaged ones) in place of the trained ones."""
        kept = [p.data for p in self.parameters]
        for p, t in zip(self.parameters, tensors, strict=True):
            p.data = t
        try:
            yield
        finally:
            for p, t in zip(self.parameters, kept, strict=True):
                p.data = t


def is_read_at_once(device: torch.device) -> bool:
    """Whether there is nothing to wait for when a number on this device is read."""
    return device.type == "cpu"


class _Call(nn.Module):
    """`functional_call` and DDP call `forward`; a model's training loss is `loss`."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor, noise: Any) -> Any:
        return getattr(self.model, self.method)(x, noise)
