"""What moves the weights: AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and, where a training
asks for it, Muon for the matrices among them.

Muon (Jordan et al. 2024, *Muon: An optimizer for hidden layers in neural networks*) moves a matrix
W of m x n by the orthogonal factor of its averaged gradient, of the size that Liu et al. (2025,
*Muon is scalable for LLM training*, arXiv:2502.16982, eq. 4) give it:

    M <- mu M + (1 - mu) G,    W <- (1 - lr decay) W - lr 0.2 sqrt(max(m, n)) U V^T

with U S V^T the singular value decomposition of mu M + (1 - mu) G, Nesterov's look ahead. All
directions move alike, where the gradient has few that outweigh the others. The entries of U V^T
have a mean square of 1 / max(m, n): those of W move by 0.2 lr, about as Adam moves them, so that
the two share a learning rate.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

from triptych.train.ensemble import Ensemble
from triptych.train.order import TrainConfig

# Jordan's: steep at 0, so that five times it takes 0.0015 .. 1 to 0.68 .. 1.21.
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
TINY = 1e-7
BETAS = (0.9, 0.99)


@runtime_checkable
class Optimizer(Protocol):
    """Moves `parameters` by their gradients. torch.optim's would do, but they bring in its compiler
    at their first step, for which every training would wait two seconds."""

    parameters: Sequence[Tensor]
    state: dict[Tensor, dict[str, Tensor]]  # what is kept of each parameter, from the start

    def step(self, lr: float | Tensor, frozen: Tensor) -> None:
        """One step, without waiting for the device; none, if `frozen` is 1 and not 0."""
        ...


def optimizers(ensemble: Ensemble, config: TrainConfig, bf16: bool) -> list[Optimizer]:
    """Those that move the parameters of an ensemble, each parameter by one of them; what they keep
    of it is there from the start, so that a checkpoint can be copied into it."""
    named = dict(zip(ensemble.names, ensemble.parameters, strict=True))
    names = matrices(ensemble.model) & named.keys() if config.optimizer == "muon" else set()
    by_muon = [p for n, p in named.items() if n in names]
    others = [p for n, p in named.items() if n not in names]
    used: list[Optimizer] = []
    if by_muon:
        leading, dtype = int(ensemble.size > 1), torch.bfloat16 if bf16 else torch.float32
        used.append(Muon(by_muon, config.weight_decay, leading, dtype))
    if others:
        used.append(AdamW(others, config.weight_decay))
    return used


def matrices(model: nn.Module) -> set[str]:
    """Names of the weights of linear layers and convolutions: m outputs, n inputs each. Not of
    masked ones: the entries that the mask takes out would have a part in U V^T."""
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
    return {f"{n}.weight".lstrip(".") for n, m in layers if not hasattr(m, "mask")}


class AdamW:
    """torch's own, fused: one pass over weights, gradients and moments."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.01) -> None:
        self.parameters, self.weight_decay = parameters, weight_decay
        self.state = {
            p: {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
            for p in parameters
        }

    @torch.no_grad()
    def step(self, lr: float | Tensor, frozen: Tensor) -> None:
        """One step of those that have a gradient."""
        moved = [p for p in self.parameters if p.grad is not None]
        kept = [self.state[p] for p in moved]
        adamw(
            moved,
            [p.grad for p in moved if p.grad is not None],
            [k["exp_avg"] for k in kept],
            [k["exp_avg_sq"] for k in kept],
            [],
            [k["step"] for k in kept],
            fused=True,
            capturable=frozen.is_cuda,
            found_inf=frozen,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )


class Muon:
    """Weights [*S, m, *n], with `leading` dimensions S of seeds side by side, n of a convolution.
    That of torch takes matrices one by one."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        weight_decay: float = 0.01,
        leading: int = 0,
        dtype: torch.dtype = torch.float32,
        momentum: float = 0.95,
    ) -> None:
        self.parameters, self.weight_decay, self.momentum = parameters, weight_decay, momentum
        self.leading, self.dtype = leading, dtype
        self.state = {p: {"exp_avg": torch.zeros_like(p)} for p in parameters}

    @torch.no_grad()
    def step(self, lr: float | Tensor, frozen: Tensor) -> None:
        """One step. Matrices of one shape are taken together: they are small, and many."""
        alike: dict[torch.Size, list[Tensor]] = {}
        for p in self.parameters:
            if p.grad is not None:
                alike.setdefault(p.shape, []).append(p)
        for same in alike.values():
            self._move(same, lr, frozen > 0)

    def _move(self, same: list[Tensor], lr: float | Tensor, frozen: Tensor) -> None:
        averages, mu = [self.state[p]["exp_avg"] for p in same], self.momentum
        grads = [p.grad for p in same if p.grad is not None]
        # If frozen, an average moves towards itself, which is nowhere.
        grads = [torch.where(frozen, m, g) for m, g in zip(averages, grads, strict=True)]
        lr = lr * ~frozen
        for m, g in zip(averages, grads, strict=True):
            m.lerp_(g, 1 - mu)
        ahead = [g.lerp(m, mu) for m, g in zip(averages, grads, strict=True)]
        flat = torch.stack([a.flatten(self.leading + 1) for a in ahead])
        steps = 0.2 * math.sqrt(max(flat.shape[-2:])) * orthogonal(flat.to(self.dtype))
        for p, step in zip(same, steps.to(flat.dtype), strict=True):
            p.mul_(1 - lr * self.weight_decay).sub_(lr * step.view_as(p))


def orthogonal(G: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
    """U V^T of G = U S V^T, with singular values that are only near 1.

    Newton and Schulz's iteration, X <- a X + b X X^T X + c (X X^T)^2 X, is of matrix products
    alone: it leaves U and V, and takes each singular value s to a s + b s^3 + c s^5.
    """
    a, b, c = QUINTIC
    X = G.mT if G.shape[-2] > G.shape[-1] else G
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + TINY)  # no singular value above 1
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if G.shape[-2] > G.shape[-1] else X
