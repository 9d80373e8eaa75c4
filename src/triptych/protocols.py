"""The nouns of the house: what a prior, a flow, a posterior, a likelihood, a model and a score are.

Everything is structural: a class that has these methods is one of these things. What a VAE or a
flow is made of is an `nn.Module` too. Leading batch dimensions are free (`*batch`), so the same
code serves one sample per image and K importance samples per image.

Optional, and used where it is there:

- of any part `prepare(x, noise)`, which starts it from data, with `images_to_prepare`, how many it
  needs; and `frozen`, true of a part that is trained already;
- of a prior `noise(generator)`, draws that its `log_prob` then takes, and `as_mixture()`;
- of a posterior `passes`, how many passes of its network one `log_prob` costs;
- of a likelihood `of_integers` (see `Likelihood`);
- of a model or its likelihood `shape` and `levels`, by which images are checked;
- of a denoising network or a model `drops`, how many uniform numbers its dropout takes;
- of an objective `at(progress)` (see `Objective`).
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Generator, Tensor

WithLogDet = tuple[Tensor, Tensor]
"""Where a map takes some points, and its log |det| there."""


@runtime_checkable
class Density(Protocol):
    """Every prior and every flow: a normalised density that can be evaluated and sampled."""

    def log_prob(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(z) in nats."""
        ...

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n D"]:
        """n independent draws."""
        ...


@runtime_checkable
class Bijector(Protocol):
    """An invertible map x = f(z). Each direction returns the log_det of the map it applied: one
    number for each batch element, summed over its dimensions, or a scalar where all have the same.
    """

    def forward(self, z: Tensor) -> WithLogDet:
        """(x, log|det dx/dz|)."""
        ...

    def inverse(self, x: Tensor) -> WithLogDet:
        """(z, log|det dz/dx|)."""
        ...


@runtime_checkable
class Posterior(Protocol):
    """q(z|x). `encode` runs the network once per image; the rest is cheap per importance sample."""

    latent_dim: int

    def encode(self, x: Tensor) -> Any:
        """The parameters h of q(z|x): a tensor, or a tuple or dict of tensors, that count images
        in their first dimension."""
        ...

    def rsample(self, h: Any, eps: Float[Tensor, "*batch D"]) -> tuple[Tensor, Tensor]:
        """(z, log q(z|x)) for standard normal eps, differentiable in h."""
        ...

    def log_prob(self, z: Tensor, h: Any) -> Tensor:
        """log q(z|x) in nats."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """p(x|z), the decoder network included.

    One that is a probability of the integers themselves, not a density, says so by an attribute
    `of_integers = True`: its bound is judged in bits per dimension too.
    """

    def log_prob(self, x: Tensor, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(x|z), summed over pixels, in nats."""
        ...

    def mean(self, z: Tensor) -> Tensor:
        """E[x|z]."""
        ...

    def sample(self, z: Tensor, generator: Generator | None = None) -> Tensor:
        """x ~ p(x|z), in the space in which `log_prob` takes it."""
        ...

    def grey(self, x: Tensor) -> Tensor:
        """Such an x as grey values in [0, 1], to be looked at."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What a VAE is trained on, where that is not the ELBO itself."""

    samples: int
    """How many z it takes of each image."""

    def loss(self, model: Any, x: Tensor, noise: dict[str, Tensor]) -> Float[Tensor, "B"]:
        """To be minimised, in nats. In the noise, `eps` is [K, B, M], or [B, M] where `samples` is
        1. The value counts, not only its gradient: the best weights are chosen by it.

        An optional `at(progress)` returns numbers by name, which are put into the noise; `progress`
        is the share of the training that is done, and 1 at validation."""
        ...


@runtime_checkable
class Model(Protocol):
    """What the trainer trains. Nothing inside `loss` draws: all its randomness is `noise`."""

    def noise(self, n: int, generator: Generator) -> Any:
        """All the randomness that the loss of n images needs (a tensor or a dict of tensors). The
        trainer puts beside it what a network's dropout takes (`dropout`), and what an objective
        takes of the training's progress (`beta`)."""
        ...

    def loss(self, x: Tensor, noise: Any) -> Float[Tensor, "B"]:
        """Per image, in nats where the loss is a bound (a VDM's in bits/dim); only the trainer
        averages."""
        ...

    def terms(self, x: Tensor, noise: Any) -> dict[str, Tensor]:
        """The loss taken apart by name, per image: for logs and for naming what went non-finite."""
        ...

    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """n images with grey values in [0, 1], on the data's own grid of levels or between."""
        ...


@dataclass(frozen=True)
class Score:
    """A number with the protocol under which it holds. Never a bare float.

    `mc_std` is the standard error from the estimator's own noise; `image_std` that of these values
    as a sample of all images', in which that noise is too: it is not to be added again. The spread
    over training runs is computed from several scores and kept apart from both.
    """

    metric: str
    value: float
    unit: str
    mc_std: float | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    image_std: float | None = None
