"""Variational autoencoder (Kingma & Welling 2014, *Auto-Encoding Variational Bayes*,
arXiv:1312.6114) with any prior, and its importance-weighted bound (Burda, Grosse &
Salakhutdinov 2016, *Importance Weighted Autoencoders*, arXiv:1509.00519).

For z ~ q(z|x) the importance weight w = p(x|z) p(z) / q(z|x) has mean p(x), so

    ELBO   = E[log w]                              <= log p(x)      (K&W eq. 2)
    IWAE_K = E[log (1/K) sum_k w_k]                <= log p(x)      (Burda eq. 8)

and IWAE_K rises from the ELBO at K = 1 to log p(x). One method, `log_weight`, serves them all.
What is trained is the ELBO, or another objective of `objectives.py`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.protocols import Density, Likelihood, Objective, Posterior


class VAE(nn.Module):
    """Prior p(z), posterior q(z|x) and likelihood p(x|z), each swapped by passing an object.

    `mean_samples=True` makes `sample` return E[x|z] instead of a draw: for grey images that were
    binarized at random during training, whose grey value is that mean. Without an `objective` it
    is trained on the ELBO.
    """

    def __init__(
        self,
        prior: Density,
        posterior: Posterior,
        likelihood: Likelihood,
        mean_samples: bool = False,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        for part in (prior, posterior, likelihood):
            if not isinstance(part, nn.Module):
                raise TypeError(
                    f"{type(part).__name__} is no nn.Module, and would be neither trained nor "
                    f"saved; derive it from nn.Module"
                )
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.mean_samples, self.objective = mean_samples, objective

    def log_weight(
        self, x: Tensor, eps: Tensor, h: Any = None, draws: Tensor | None = None
    ) -> Float[Tensor, "*K B"]:
        """log w = log p(x|z) + log p(z) - log q(z|x) in nats, at the z that eps ~ N(0, I) gives.

        x are images [B, C, H, W]; eps is [*K, B, M], with several samples of each image or one.
        `h = posterior.encode(x)` may be passed in, so that K samples that come in chunks share
        one run of the encoder; so may `draws` for a prior that has noise of its own.
        """
        h = self.posterior.encode(x) if h is None else h
        z, log_qz = self.rsample(h, eps)
        log_px, log_pz = self.log_px(x, z), self.log_pz(z, draws)
        return log_px + log_pz - log_qz

    def rsample(self, h: Any, eps: Tensor) -> tuple[Float[Tensor, "*K B M"], Float[Tensor, "*K B"]]:
        """z ~ q(z|x) and log q(z|x)."""
        z, log_qz = self.posterior.rsample(h, eps)
        return z, one_each(log_qz, z, "posterior's log q(z|x)")

    def log_px(self, x: Tensor, z: Float[Tensor, "*K B M"]) -> Float[Tensor, "*K B"]:
        """log p(x|z)."""
        return one_each(self.likelihood.log_prob(x, z), z, "likelihood's log_prob")

    def log_pz(
        self, z: Float[Tensor, "*K B M"], draws: Tensor | None = None
    ) -> Float[Tensor, "*K B"]:
        """log p(z), normalised by `draws` if the prior's normaliser is estimated from some."""
        rest = () if draws is None else (draws,)  # most priors take no second argument
        return one_each(self.prior.log_prob(z, *rest), z, "prior's log_prob")

    def loss(self, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]) -> Float[Tensor, "B"]:
        """The negative ELBO of each image, one sample; or the loss of the objective."""
        if self.objective is not None:
            return self.objective.loss(self, x, noise)
        return -self.log_weight(x, **noise)  # eps, and draws where the prior has some

    def noise(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """All the randomness of a loss: eps ~ N(0, I) for each sample that the objective takes of
        an image, and the prior's own draws if it has any."""
        size, device = (n, self.posterior.latent_dim), generator.device
        if self.objective is not None and self.objective.samples > 1:
            size = (self.objective.samples, *size)
        noise = {"eps": torch.randn(size, generator=generator, device=device)}
        if hasattr(self.prior, "noise"):
            noise["draws"] = self.prior.noise(generator)  # pyright: ignore
        return noise

    def terms(
        self, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "*K B"]]:
        """The three logarithms that make up log w."""
        z, log_qz = self.rsample(self.posterior.encode(x), noise["eps"])
        log_px, log_pz = self.log_px(x, z), self.log_pz(z, noise.get("draws"))
        return {"log_px": log_px, "log_pz": log_pz, "log_qz": log_qz}

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """x ~ p(x|z), z ~ p(z)."""
        z = self.prior.sample(n, generator)
        if self.mean_samples:
            return self.likelihood.mean(z)
        return self.likelihood.grey(self.likelihood.sample(z, generator))


def one_each(log_p: Tensor, z: Float[Tensor, "*K B M"], whose: str) -> Float[Tensor, "*K B"]:
    """log_p itself. ValueError unless it has one number for each z: summed over images too, or not
    over dimensions, it would be broadcast, and the bound be wrong."""
    if (found := list(log_p.shape)) != (wanted := list(z.shape[:-1])):
        raise ValueError(f"the {whose} must be of shape {wanted}, not {found}")
    return log_p
