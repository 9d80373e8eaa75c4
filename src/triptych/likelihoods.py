"""Likelihoods p(x|z), the decoder network included."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus


class Bernoulli(nn.Module):
    """Product of Bernoullis: log p(x|z) = sum_d x_d l_d - log(1 + exp l_d), l the logits.

    `net` maps [*, latent_dim] to logits [*, C H W]. Written in logits, nothing is clamped: a
    probability may come as close to 0 or 1 as the data wants.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.net, self.shape = net, shape
        self.dims = math.prod(shape)

    def logits(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch D"]:
        """The decoder's output in the precision of z."""
        return self.net(z).to(z.dtype)

    def log_prob(
        self, x: Float[Tensor, "B C H W"], z: Float[Tensor, "*batch M"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x|z) in nats, summed over pixels; x in [0, 1]."""
        logits = self.logits(z)
        return (x.flatten(-3) * logits - softplus(logits)).sum(-1)

    def mean(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch C H W"]:
        """E[x|z], the probability of a white pixel."""
        return self.logits(z).sigmoid().unflatten(-1, self.shape)

    def sample(
        self, z: Float[Tensor, "*batch M"], generator: Generator | None = None
    ) -> Float[Tensor, "*batch C H W"]:
        """x ~ p(x|z), zeros and ones."""
        p = self.mean(z)
        u = torch.rand(p.shape, generator=generator, device=p.device, dtype=p.dtype)
        return (u < p).to(p.dtype)
