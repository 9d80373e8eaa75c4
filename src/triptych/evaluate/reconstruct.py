"""What an autoencoder gives back of images."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.evaluate.drawing import as_bytes
from triptych.evaluate.evaluation import Arrays
from triptych.evaluate.memory import in_halves
from triptych.latent import LatentDDPM
from triptych.train.order import Stream, generator_for
from triptych.vae import VAE

PAIRS = 16


def autoencoder_of(model: nn.Module) -> VAE | None:
    """The VAE that a model is or has."""
    vae = model.autoencoder if isinstance(model, LatentDDPM) else model
    return vae if isinstance(vae, VAE) else None


@torch.no_grad()
def reconstructions(
    model: nn.Module, x: Float[Tensor, "N C H W"], g: Generator
) -> Float[Tensor, "N C H W"]:
    """E[x|z] as grey values, z ~ q(z|x)."""
    vae = autoencoder_of(model)
    if vae is None:
        raise TypeError(f"a {type(model).__name__} has no reconstructions")

    def shown(x: Tensor) -> Tensor:
        eps = torch.randn(len(x), vae.posterior.latent_dim, generator=g, device=g.device)
        return vae.likelihood.mean(vae.posterior.rsample(vae.posterior.encode(x), eps)[0])

    return torch.cat([in_halves(shown, part) for part in x.split(500)])


def reconstruction_arrays(model: nn.Module, x: Float[Tensor, "N C H W"]) -> Arrays:
    """What the figure of reconstructions draws: the first images, as the model sees them, and
    E[x|z] of each."""
    vae = autoencoder_of(model)
    if vae is None:
        return {}
    first, g = x[:PAIRS], generator_for(0, 0, x.device, stream=Stream.RECONSTRUCTIONS)
    means = reconstructions(vae, first, g)
    pairs = {"images": as_bytes(vae.likelihood.grey(first)), "means": as_bytes(means)}
    return {"reconstructions": pairs}
