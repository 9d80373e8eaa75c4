"""How to draw and to judge, what of the protocol a user may choose; and what judging gives."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.protocols import Score
from triptych.samplers import WITH_ETA, WITH_RHO

DRAWN = {"split": "samples"}  # a protocol of what the model draws
Say = Callable[[str], None]  # told what is being done, for whoever waits
Arrays = dict[str, dict[str, NDArray[Any]]]  # by file, and by name in the file
SamplerName = Literal["ancestral", "ddim", "dpm-solver++", "unipc", "heun"]


@dataclass(frozen=True)
class Drawing:
    """How a DDPM is drawn from."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    sampler: SamplerName = "ddim"
    steps: Annotated[int, Ge(2)] = 50
    """As many as its chain has at most; ancestral sampling takes all."""
    eta: Annotated[float, Ge(0), Le(1)] = 0.0
    """Noise of a step of DDIM or DPM-Solver++: 0 none, 1 as much as the chain's or the SDE's."""
    noise_below: Annotated[float, Gt(0), Le(1e9)] | None = None
    """That noise only in steps from a sigma / alpha below this; left out, in all."""
    rho: Annotated[float, Ge(1), Le(100)] | None = None
    """Of the times of DPM-Solver++, UniPC and Heun's method: even in s^(1/rho), s = sigma / alpha;
    left out, in log s."""
    guidance: Annotated[float, Ge(1), Le(10)] = 1.0
    """Weight of its own prediction over that of its early self, 1 for its own alone."""

    def __post_init__(self) -> None:
        """Not every sampler has noise or a choice of times."""
        if self.eta and self.sampler not in WITH_ETA:
            raise UserError(
                f"eta = {self.eta:g} cannot be used with sampler = {self.sampler!r}, which has no "
                f"such setting; choose eta = 0, or one of {', '.join(WITH_ETA)}"
            )
        if self.noise_below is not None and not self.eta:
            raise UserError(
                f"noise_below = {self.noise_below:g} has no effect with eta = 0, which is without "
                f"noise; leave it out, or choose eta above 0"
            )
        if self.rho is not None and self.sampler not in WITH_RHO:
            raise UserError(
                f"rho = {self.rho:g} cannot be used with sampler = {self.sampler!r}, which has "
                f"times of its own; leave it out, or choose another of {', '.join(WITH_RHO)}"
            )


@dataclass(frozen=True)
class Evaluation(Drawing):
    """Settings of `judge`, as a study file and the command line have them."""

    latent: Drawing | None = None
    """How latent DDPMs are drawn from; left out, as others."""
    importance_samples: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    """K of IWAE-K."""
    importance_images: Annotated[int, Ge(2)] = 10_000
    """IWAE-K is taken of so many of the images, and what it adds to their ELBO is added to that of
    all (see `judge_vae.of_all`)."""
    elbo_samples: Annotated[int, Ge(1), Le(1_000_000)] = 100
    bf16: bool = True
    """In bfloat16 where the hardware has it: importance samples of binary pixels are decoded, and
    samples drawn. Bounds move by less than their Monte Carlo error, and FID by less than it does
    from one draw to another (measured in results/bfloat16.md)."""
    images: Annotated[int, Ge(2)] = 10_000
    """So many of the test images, at random but always the same, or all if there are fewer; also
    the N of the FID."""
    ais_images: Annotated[int, Ge(0)] = 0
    """Annealed importance sampling of so many of the images, and a bracket on as many
    that the model draws; it takes minutes for each hundred."""
    ais_steps: Annotated[int, Ge(1), Le(100_000)] = 300
    """Its temperatures."""
    ais_chains: Annotated[int, Ge(2), Le(10_000)] = 16
    """Of each image: weights whose mean is p(x), and whose spread says how good it is."""
    ais_leapfrog: Annotated[int, Ge(1), Le(1000)] = 5
    """Steps of Hamiltonian Monte Carlo's integrator at each temperature."""
    ode_images: Annotated[int, Ge(0)] = 0
    """Likelihood of so many by a DDPM's probability-flow ODE; minutes for each hundred too."""
    ode_trace: Literal["hutchinson", "exact"] = "hutchinson"
    """Its divergence: by one random direction an image, or whole, a pass for each pixel."""
    bound_draws: Annotated[int, Ge(1), Le(10_000)] = 4
    """Dequantizations, or (t, eps) pairs, an image; K of a pixel flow's bpd-iwae-K."""
    tradeoff_images: Annotated[int, Ge(0)] = 0
    """Samples of each model by each sampler and several numbers of steps, for their FID against
    the time they take; 0: none."""
    temperature: Annotated[float, Gt(0), Le(10)] = 1.0
    """Scale of a pixel flow's base noise, below 1 for samples nearer to its modes."""

    def of_latents(self, latents: bool) -> "Evaluation":
        """The settings for one kind of model: those under `latent` take the place of the others for
        a latent DDPM, and are dropped for any other."""
        own = asdict(self.latent) if latents and self.latent else {}
        return replace(self, **own, latent=None)

    def __post_init__(self) -> None:
        """One image has no covariance."""
        super().__post_init__()
        if self.tradeoff_images == 1:
            raise UserError(
                "tradeoff_images = 1 cannot be judged, a FID is of 2 images or more; choose so "
                "many, or 0 for none"
            )


def quiet(what: str) -> None:
    """A `Say` for where nobody waits."""


def of_first(protocol: dict[str, Any], n: int) -> dict[str, Any]:
    """The protocol of the first n of its images, which stand in an order of chance."""
    return protocol if n >= protocol["n"] else protocol | {"n": n, "images": "at random"}


@dataclass
class Judgement:
    """The scores, and the arrays that figures need."""

    scores: list[Score] = field(default_factory=list)
    arrays: Arrays = field(default_factory=dict)
