"""Variational diffusion (Kingma, Salimans, Poole & Ho 2021, *Variational Diffusion Models*,
arXiv:2107.00630): a DDPM in continuous time, with a learned schedule, trained on the bound itself.

    z_t = alpha_t x_0 + sigma_t eps,    alpha_t^2 = sigmoid(-gamma_t), sigma_t^2 = sigmoid(gamma_t)

    -log P(x) <= KL(q(z_1|x) || N(0, I)) + E[-log P(x|z_0)]
                 + 1/2 E[gamma'(t) ||eps - eps_hat(z_t, gamma_t)||^2],          t ~ U(0, 1)

The third term is an integral over gamma: only where it begins and where it ends matters to the
bound, not the path (section 5.1). So gamma is a straight line in t, and its ends are learned.
"""

import math
from typing import get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid

from triptych.ddpm import DDPM, Prediction, bin_nll, check_choice, check_output, stratified
from triptych.maths import nats_per_bit

# Of gamma before training, as in the paper's code; weight decay pulls back to them.
START, END = -13.3, 5.0


class VDM(nn.Module):
    """A network that denoises, and the log noise-to-signal ratio gamma from t = 0 to t = 1.

    `net(features, time)` predicts eps, v or x_0 (see `ddpm.py`) from z_t and its Fourier features,
    five times the image's channels. To sample, `chain()` cuts the time into `timesteps`.
    """

    def __init__(
        self,
        net: nn.Module,
        shape: tuple[int, int, int],
        levels: int,
        prediction: Prediction = "v",
        timesteps: int = 1000,
    ) -> None:
        super().__init__()
        check_choice(prediction, get_args(Prediction))
        self.net, self.shape, self.levels = FineScale(net, levels), shape, levels
        self.prediction: Prediction = prediction
        self.timesteps = timesteps
        self.dims, self.drops = math.prod(shape), getattr(net, "drops", 0)
        self.moved_0, self.moved_1 = (nn.Parameter(torch.zeros(())) for _ in range(2))

    @property
    def gamma_0(self) -> Tensor:
        """gamma at t = 0."""
        return START + self.moved_0

    @property
    def gamma_1(self) -> Tensor:
        """gamma at t = 1."""
        return END + self.moved_1

    def noise(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Times t, stratified, and eps of z_t and of z_0."""
        t, size, device = stratified(n, generator), (n, *self.shape), generator.device
        eps, eps_0 = (torch.randn(size, generator=generator, device=device) for _ in range(2))
        return {"t": t, "eps": eps, "eps_0": eps_0}

    def loss(self, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]) -> Float[Tensor, "B"]:
        """The bound on -log P(x) in bits/dim: its gradients are about as large as L_simple's."""
        return torch.stack(list(self.terms(x, noise).values())).sum(0)

    def terms(
        self, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "B"]]:
        """The bound's three terms, in bits/dim of the integers x. Where times t are not uniform but
        of density q, the noise has `weight`, 1 / q(t) of each."""
        x_0 = self.scale(x)
        nats = {
            "prior": self.prior_term(x_0),
            "reconstruction": self.reconstruction(x_0, noise["eps_0"]),
            "diffusion": noise.get("weight", 1)
            * self.diffusion(x_0, noise["t"], noise["eps"], noise.get("dropout")),
        }
        return {name: value / nats_per_bit(self.dims) for name, value in nats.items()}

    def scale(self, x: Tensor) -> Tensor:
        """Levels 0 .. L-1 to [-1, 1]."""
        return 2.0 * x / (self.levels - 1) - 1

    def prior_term(self, x_0: Tensor) -> Float[Tensor, "B"]:
        """KL(q(z_1|x) || N(0, I))."""
        alpha2 = (-self.gamma_1).sigmoid()
        kl = 0.5 * (alpha2 * (x_0.square() - 1) - logsigmoid(self.gamma_1))
        return kl.flatten(1).sum(1)

    def reconstruction(self, x_0: Tensor, eps: Tensor) -> Float[Tensor, "B"]:
        """-log P(x|z_0): what N(z_0 / alpha_0, (sigma_0 / alpha_0)^2) gives to the level's bin, as
        in Ho et al.'s eq. 13 (the paper normalises q(z_0|x) over the levels instead).
        """
        spread = (self.gamma_0 / 2).exp()
        return bin_nll(x_0, -spread * eps, spread, self.levels)

    def diffusion(
        self, x_0: Tensor, t: Float[Tensor, "B"], eps: Tensor, dropout: Tensor | None = None
    ) -> Float[Tensor, "B"]:
        """1/2 gamma'(t) ||eps - eps_hat||^2, gamma' = gamma_1 - gamma_0.

        In evaluation mode x_0_hat is clipped to [-1, 1], as the chain clips it. x_0 lies there, so
        that no error grows; in training a pixel that is clipped would have no gradient.
        """
        gamma = self.gamma(t)
        alpha = (-gamma[..., None, None, None]).sigmoid().sqrt()
        sigma = gamma[..., None, None, None].sigmoid().sqrt()
        z = alpha * x_0 + sigma * eps
        out = self.net(z, network_time(gamma), dropout)
        check_output(out, z, 1)
        eps_hat = {
            "eps": out,
            "v": sigma * z + alpha * out,
            "x_0": (z - alpha * out) / sigma,
        }[self.prediction]
        if not self.training:
            x_0_hat = ((z - sigma * eps_hat) / alpha).clamp(-1, 1)
            eps_hat = (z - alpha * x_0_hat) / sigma
        slope = self.gamma_1 - self.gamma_0
        return 0.5 * slope * (eps - eps_hat).square().flatten(1).sum(1)

    def gamma(self, t: Tensor) -> Tensor:
        """log(sigma_t^2 / alpha_t^2)."""
        return self.gamma_0 + (self.gamma_1 - self.gamma_0) * t

    def take_schedule(self, other: "VDM") -> None:
        """Copy another one's gamma."""
        self.moved_0.data.copy_(other.moved_0.data)
        self.moved_1.data.copy_(other.moved_1.data)

    def chain(self) -> DDPM:
        """The discrete chain of times 1/T, 2/T .. 1 with this network, which the samplers take."""
        first, last = self.gamma_0.item(), self.gamma_1.item()
        t = torch.arange(1, self.timesteps + 1, dtype=torch.float64) / self.timesteps
        alpha_bar = (-first - (last - first) * t).sigmoid()
        beta = 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        chain = DDPM(AtStep(self), beta, self.shape, self.levels, self.prediction)
        return chain.to(self.moved_0).train(self.training)

    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """Ancestral sampling along `chain()`."""
        return self.chain().sample(n, generator)


class AtStep(nn.Module):
    """The network at step t = 0 .. T-1 of the chain."""

    def __init__(self, vdm: VDM) -> None:
        super().__init__()
        self.net, self.T = vdm.net, vdm.timesteps
        self.gamma_0, self.gamma_1 = vdm.gamma_0.item(), vdm.gamma_1.item()

    def forward(self, x_t: Float[Tensor, "B C H W"], t: Tensor) -> Tensor:
        gamma = self.gamma_0 + (self.gamma_1 - self.gamma_0) * (t.to(x_t.dtype) + 1) / self.T
        return self.net(x_t, network_time(gamma))


class FineScale(nn.Module):
    """z with sin and cos of (L-1) pi z and of half that, without which a network does not see which
    level a nearly clean pixel has (appendix C).

    Levels 2k / (L-1) - 1 are one period of the first apart, so that all have the same phase; the
    paper's 2^n pi z, n = 7 and 8, are that for levels 2/256 apart.
    """

    waves: Tensor  # saved with the weights, which were trained on them

    def __init__(self, net: nn.Module, levels: int) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("waves", math.pi * (levels - 1) * torch.tensor([0.5, 1.0]))

    def forward(
        self, z: Float[Tensor, "B C H W"], t: Tensor, dropout: Tensor | None = None
    ) -> Tensor:
        angles = [wave * z for wave in self.waves]
        fine = [f(angle) for angle in angles for f in (torch.sin, torch.cos)]
        features = torch.cat([z, *fine], -3)
        return self.net(features, t) if dropout is None else self.net(features, t, dropout)


def network_time(gamma: Tensor) -> Tensor:
    """gamma on the scale of a chain's times, 0 to 1000, wherever the learned ends move."""
    return 1000 * (gamma - START) / (END - START)
