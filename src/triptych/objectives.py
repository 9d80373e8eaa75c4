"""What a VAE may be trained on beside the ELBO.

`BetaELBO` (Higgins et al. 2017, *beta-VAE*; Bowman et al. 2016, arXiv:1511.06349, for the warm-up):

    L = E[log p(x|z)] - beta E[log q(z|x) - log p(z)]

`ImportanceWeighted` (Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519), by default with the
doubly reparametrized gradient (Tucker, Lawson, Gu & Maddison 2019, arXiv:1810.04152): with
normalised weights v_k = w_k / sum_j w_j,

    L = E[log (1/K) sum_k w_k],
    dL/dtheta = E[sum_k v_k   dlog w_k/dtheta]
    dL/dphi   = E[sum_k v_k^2 dlog w_k/dz_k dz_k/dphi]                                (eq. 8)

theta the weights of prior and decoder, phi those of the encoder, whose plain gradient drowns in
noise as K grows (Rainforth et al. 2018, arXiv:1802.04537). Where phi is in the prior too, as with a
VampPrior, that part of log w counts as theta's: its gradient is weighted by v_k.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from triptych.maths import log_mean_exp
from triptych.protocols import Posterior
from triptych.vae import VAE


class BetaELBO:
    """The ELBO with its KL term times `beta`, one sample an image.

    beta rises in a straight line from zero over the first `warmup` of training; validation, by
    which weights are chosen, always uses beta itself.
    """

    samples = 1

    def __init__(self, beta: float = 1.0, warmup: float = 0.0) -> None:
        self.beta, self.warmup = beta, warmup

    def at(self, progress: float) -> dict[str, float]:
        """beta when the share `progress` of the training is done."""
        share = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return {"beta": self.beta * share}

    def loss(
        self, model: VAE, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]
    ) -> Float[Tensor, "B"]:
        """-log p(x|z) + beta (log q(z|x) - log p(z))."""
        terms, beta = model.terms(x, noise), noise.get("beta", self.beta)
        return beta * (terms["log_qz"] - terms["log_pz"]) - terms["log_px"]


class ImportanceWeighted:
    """IWAE-K, with the plain gradient or the doubly reparametrized one (K = 1 of which is that of
    Roeder, Wu & Duvenaud 2017, arXiv:1703.09194, for the ELBO)."""

    def __init__(self, samples: int, doubly: bool = True) -> None:
        if samples < 1:
            raise ValueError(f"the number of importance samples must be at least 1, not {samples}")
        self.samples, self.doubly = samples, doubly

    def loss(
        self, model: VAE, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]
    ) -> Float[Tensor, "B"]:
        """-IWAE_K of each image, with either gradient."""
        eps, draws = noise["eps"], noise.get("draws")
        eps = eps if eps.dim() == 3 else eps[None]
        if not self.doubly:
            return -log_mean_exp(model.log_weight(x, eps, draws=draws))
        h = model.posterior.encode(x)
        with torch.no_grad():
            v = model.log_weight(x, eps, h, draws).softmax(0)
        z, _ = model.posterior.rsample(h, eps)
        z = with_gradient_times(z, v[..., None])  # phi's v_k^2: once here, once below
        log_qz = frozen_log_prob(model.posterior, z, h)
        log_w = model.log_px(x, z) + model.log_pz(z, draws) - log_qz
        surrogate = (v * log_w).sum(0)
        # The value is the bound's, the gradient the surrogate's.
        return surrogate.detach() - log_mean_exp(log_w.detach()) - surrogate


class _LogProb(nn.Module):
    """`functional_call` calls `forward`; the density of a posterior is `log_prob`."""

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, z: Tensor, h: Any) -> Tensor:
        return self.posterior.log_prob(z, h)


def frozen_log_prob(posterior: Posterior, z: Float[Tensor, "*K B M"], h: Any) -> Tensor:
    """log q(z|x) as a function of z alone: neither what the encoder said of the image nor the
    weights that a flow or a second level reads again have a gradient."""
    module = _LogProb(posterior)
    still = {name: p.detach() for name, p in module.named_parameters()}
    return functional_call(module, still, (z, tree_map(Tensor.detach, h)))


def with_gradient_times(z: Tensor, factor: Tensor) -> Tensor:
    """z, whose gradient is multiplied by `factor` on its way back."""
    return z.detach() + factor * (z - z.detach())
