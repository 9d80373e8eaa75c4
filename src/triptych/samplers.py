"""Samplers for a trained DDPM that take fewer steps than its chain has."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from triptych.ddpm import DDPM, at


def spaced_times(T: int, steps: int) -> list[int]:
    """`steps` times from 0 to T-1, both included, as evenly spaced as integers can be."""
    if not 2 <= steps <= T:
        raise ValueError(f"steps must lie in 2..{T}, not {steps}")
    return torch.linspace(0, T - 1, steps, dtype=torch.float64).round().long().tolist()


@torch.no_grad()
def ddim(
    model: DDPM, n: int, steps: int, generator: Generator, eta: float = 0.0
) -> Float[Tensor, "n C H W"]:
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12) in `steps` network evaluations.

        x_s = sqrt(ab_s) x_0_hat + sqrt(1 - ab_s - sigma^2) eps_hat + sigma eps,
        sigma^2 = eta^2 (1 - ab_s) / (1 - ab_t) (1 - ab_t / ab_s)

    from each time t to the next lower one s, and from t = 0 to the image itself (ab = 1).
    eta = 0 is deterministic; eta = 1 with all steps is the ancestral chain.
    """
    x = model.start(n, generator)
    times = spaced_times(model.T, steps)
    alpha_bar = model.sqrt_alpha_bar.square()
    for t_now, t_next in zip(times[::-1], [*times[-2::-1], None], strict=True):
        t = torch.full((n,), t_now, device=x.device)
        x_0 = model.x_0_hat(x, t)
        if t_next is None:
            return model.grey(x_0)
        eps = (x - at(model.sqrt_alpha_bar, t) * x_0) / at(model.sqrt_one_minus_alpha_bar, t)
        ab_t, ab_s = alpha_bar[t_now], alpha_bar[t_next]
        sigma = eta * ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)).sqrt()
        x = ab_s.sqrt() * x_0 + (1 - ab_s - sigma**2).sqrt() * eps
        if eta > 0:
            x = x + sigma * model.start(n, generator)
    raise AssertionError("the last time is always 0")
