"""A diffusion model in the latent space of a VAE (Rombach et al. 2022, *High-Resolution Image
Synthesis with Latent Diffusion Models*, arXiv:2112.10752; Vahdat, Kreis & Kautz 2021,
arXiv:2106.05931).

    p(x) = E_p(z)[p(x|z)],    p(z) a DDPM in place of the VAE's own prior

First a beta-VAE is trained. Then its weights stay as they are, and the DDPM learns its aggregate
posterior q(z) = E_x[q(z|x)]. With a small beta, q(z) lies far from the VAE's prior, and only a
learned p(z) can find it.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.ddpm import DDPM
from triptych.vae import VAE


class LatentDDPM(nn.Module):
    """A trained VAE and a DDPM of its latents, standardised dimension by dimension: the chain ends
    in N(0, I) whatever the latents' scale.

    The VAE's parameters become buffers. They are saved with the rest, and nothing trains them.
    """

    center: Tensor
    spread: Tensor
    images_to_prepare = 1000

    def __init__(self, autoencoder: VAE, ddpm: DDPM) -> None:
        super().__init__()
        M = autoencoder.posterior.latent_dim
        if ddpm.clip:
            raise ValueError("a chain in a latent space must not clip to [-1, 1]: clip=False")
        if ddpm.shape != (M, 1, 1) or ddpm.levels is not None:
            raise ValueError(f"the chain must be of real {(M, 1, 1)}, not {ddpm.shape}")
        self.autoencoder, self.ddpm = autoencoder, ddpm
        self.register_buffer("center", torch.zeros(M))
        self.register_buffer("spread", torch.ones(M))
        freeze(autoencoder)

    def train(self, mode: bool = True) -> "LatentDDPM":
        """As for every module, but the VAE's dropout is over: its latents are learned as they are
        judged and decoded."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    # --- training ---

    def prepare(self, x: Float[Tensor, "B C H W"], noise: dict[str, Any]) -> None:
        """Take mean and standard deviation of the latents from training images."""
        z = self.encode(x, noise["eps_z"])
        self.center, self.spread = z.mean(0), z.std(0)

    def noise(self, n: int, generator: Generator) -> dict[str, Any]:
        """eps_z of z ~ q(z|x), and what the chain needs."""
        M = self.autoencoder.posterior.latent_dim
        eps_z = torch.randn(n, M, generator=generator, device=generator.device)
        return {"eps_z": eps_z, "chain": self.ddpm.noise(n, generator)}

    def loss(self, x: Tensor, noise: dict[str, Any]) -> Float[Tensor, "B"]:
        """L_simple of the chain on standardised z ~ q(z|x)."""
        z = (self.encode(x, noise["eps_z"]) - self.center) / self.spread
        return self.ddpm.loss(z[..., None, None], noise["chain"])

    def terms(self, x: Tensor, noise: dict[str, Any]) -> dict[str, Float[Tensor, "B"]]:
        """The loss itself; it has one term."""
        return {"squared_error": self.loss(x, noise)}

    def encode(self, x: Tensor, eps: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """z ~ q(z|x)."""
        posterior = self.autoencoder.posterior
        z, _ = posterior.rsample(posterior.encode(x), eps)
        return z

    # --- sampling ---

    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """Ancestral sampling of z, T network evaluations, and one of the decoder."""
        return self.decode(self.latents(self.ddpm.sample(n, generator)))

    def latents(self, u: Float[Tensor, "n M 1 1"]) -> Float[Tensor, "n M"]:
        """What the chain drew, in the VAE's own latent space."""
        return self.center + self.spread * u[..., 0, 0]

    def decode(self, z: Float[Tensor, "n M"]) -> Float[Tensor, "n C H W"]:
        """E[x|z] as grey values in [0, 1]: the likelihood's pixel noise is not drawn."""
        return self.autoencoder.likelihood.mean(z)


def freeze(module: nn.Module) -> None:
    """Turn every parameter into a buffer of the same name, and mark each part as `frozen`, which
    the trainer must not start from data again."""
    for part in module.modules():
        part.frozen = True  # pyright: ignore
        for name, p in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, p.detach())
