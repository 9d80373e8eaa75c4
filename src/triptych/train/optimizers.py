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
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.train.ensemble import Ensemble
from triptych.train.order import TrainConfig

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: steepest at 0, and within 0.3 of 1 from there on
ITERATIONS = 5
TINY = 1e-7


def optimizers(ensemble: Ensemble, config: TrainConfig, bf16: bool) -> list[torch.optim.Optimizer]:
    """Those that move the parameters of an ensemble, each parameter by one of them; what they keep
    of it is there from the start, so that a checkpoint can be copied into it."""
    named = dict(zip(ensemble.names, ensemble.parameters, strict=True))
    names = matrices(ensemble.model) & named.keys() if config.optimizer == "muon" else set()
    by_muon = [p for n, p in named.items() if n in names]
    others = [p for n, p in named.items() if n not in names]
    used: list[torch.optim.Optimizer] = []
    if by_muon:
        leading, dtype = int(ensemble.size > 1), torch.bfloat16 if bf16 else torch.float32
        used.append(Muon(by_muon, config.weight_decay, leading, dtype))
    if others:
        used.append(adamw(others, config))
    return used


def adamw(parameters: list[Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW, fused, before its first step."""
    device = parameters[0].device
    adam = torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )
    for p in parameters:
        moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        adam.state[p] = {"step": torch.zeros((), device=device), **moments}
    return adam


def matrices(model: nn.Module) -> set[str]:
    """Names of the weights of linear layers and convolutions: m outputs, n inputs each. Not of
    masked ones: the entries that the mask takes out would have a part in U V^T."""
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
    return {f"{n}.weight".lstrip(".") for n, m in layers if not hasattr(m, "mask")}


class Muon(torch.optim.Optimizer):
    """Weights [*S, m, *n], with `leading` dimensions S of seeds side by side, n of a convolution.

    Like a fused AdamW it takes a tensor as learning rate, and does nothing where its `found_inf` is
    not zero, both without waiting for the device. That of torch takes matrices one by one.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[Tensor],
        weight_decay: float = 0.01,
        leading: int = 0,
        dtype: torch.dtype = torch.float32,
        lr: float = 2e-3,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self.leading, self.dtype = leading, dtype
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"exp_avg": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step. Matrices of one shape are taken together: they are small, and many."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for same in alike.values():
                self._move(same, group)

    def _move(self, same: list[Tensor], group: dict[str, Any]) -> None:
        averages = [self.state[p]["exp_avg"] for p in same]
        grads = [p.grad for p in same if p.grad is not None]
        mu, lr = group["momentum"], group["lr"]
        if self.found_inf is not None:
            frozen = self.found_inf > 0
            # An average moves towards itself: nowhere.
            grads = [torch.where(frozen, m, g) for m, g in zip(averages, grads, strict=True)]
            lr = lr * ~frozen
        for m, g in zip(averages, grads, strict=True):
            m.lerp_(g, 1 - mu)
        ahead = [g.lerp(m, mu) for m, g in zip(averages, grads, strict=True)]
        flat = torch.stack([a.flatten(self.leading + 1) for a in ahead])
        steps = 0.2 * math.sqrt(max(flat.shape[-2:])) * orthogonal(flat.to(self.dtype))
        for p, step in zip(same, steps.to(flat.dtype), strict=True):
            p.mul_(1 - lr * group["weight_decay"]).sub_(lr * step.view_as(p))


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
