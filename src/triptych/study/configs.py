"""What a model is made of, as plain data with names: the settings that a user may choose."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from triptych.ddpm import Prediction, Variance
from triptych.errors import UserError
from triptych.train.order import TrainConfig

Prior = Literal[
    "gaussian",
    "mixture",
    "flow",
    "spline",
    "maf",
    "vamp",
    "resampled",
    "hierarchical",
    "hierarchical-vamp",
]
HIERARCHICAL = ("hierarchical", "hierarchical-vamp")
OF_GAUSSIAN_POSTERIOR = ("vamp", *HIERARCHICAL)  # priors made for that posterior
Likelihood = Literal["bernoulli", "autoregressive", "continuous-bernoulli", "gaussian", "logistic"]
BINARY = ("bernoulli", "autoregressive")  # likelihoods of pixels that are black or white
Count = Annotated[int, Field(ge=1, le=100_000)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]
Eight = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
EightChannels = Annotated[tuple[Eight, ...], Field(min_length=1, max_length=8)]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class VAEConfig:
    """A VAE with Bernoulli likelihood and MLPs, the course's by default."""

    __pydantic_config__ = STRICT
    kind: Literal["vae"] = "vae"
    prior: Prior = "gaussian"
    latent_dim: Annotated[int, Field(ge=2, le=4096)] = 32
    """Of each level, under a hierarchical prior."""
    network: Literal["mlp", "gated", "residual"] = "mlp"
    """Encoder and decoder: fully connected, the same with gates, or residual convolutions."""
    likelihood: Likelihood = "bernoulli"
    """Of binary pixels, each by itself or given those before it (autoregressive), of grey values in
    [0, 1], or of the integers themselves (logistic)."""
    features: Annotated[int, Field(ge=1, le=1024)] = 16
    """Numbers that the decoder gives the autoregressive likelihood for a pixel."""
    window: Annotated[int, Field(ge=3, le=99)] = 9
    """Side of the square in which that likelihood sees the pixels before its centre; odd."""
    sigma: Annotated[float, Field(ge=1e-3, le=10)] | None = None
    """Standard deviation of the Gaussian likelihood of grey values in [0, 1]; left out, learned."""
    logistics: Annotated[int, Field(ge=1, le=100)] = 5
    """Components of the logistic likelihood."""
    hidden: Widths = (512, 512)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    channels: EightChannels = (64, 128)
    """Of the residual network, at half, a quarter, ... of the image's size; multiples of 8."""
    blocks: Count = 1
    """Residual blocks at each of these sizes."""
    components: Count = 50
    """Components of the mixture prior."""
    pseudo_inputs: Count = 500
    """Components of the VampPrior."""
    couplings: Annotated[int, Field(ge=2, le=256)] = 8
    """Layers of a flow prior, whatever their kind."""
    coupling_hidden: Widths = (64, 64)
    """Widths of the hidden layers of a flow prior's or a flow posterior's networks."""
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    """Bins of the spline prior's maps."""
    acceptance_hidden: Widths = (100, 100)
    """Widths of the hidden layers of the resampled prior's network."""
    truncation: Annotated[int, Field(ge=2, le=10_000)] = 100
    """Proposals of the resampled prior, the last of which is taken as it is."""
    posterior: Literal["gaussian", "full", "coupling", "iaf"] = "gaussian"
    """Diagonal or full Gaussian, or a diagonal one pushed through a flow that reads the image."""
    posterior_layers: Annotated[int, Field(ge=2, le=64)] = 4
    """Layers of a flow posterior."""
    context: Count = 64
    """How many numbers the layers of a flow posterior read of the image."""
    objective: Literal["elbo", "iwae"] = "elbo"
    beta: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight of KL(q(z|x) || p(z)) in the ELBO."""
    kl_warmup: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of training in which that weight rises from zero."""
    iwae_samples: Annotated[int, Field(ge=1, le=1000)] = 5
    """K of training on IWAE-K."""
    doubly: bool = True
    """IWAE's doubly reparametrized gradient, not the plain one."""
    mean_samples: bool = False
    """Show E[x|z] instead of drawing pixels: for the dynamic view of grey images."""

    def __post_init__(self) -> None:
        """Settings that do not go together."""
        if self.posterior != "gaussian" and self.prior in OF_GAUSSIAN_POSTERIOR:
            raise UserError(
                f"posterior = {self.posterior!r} does not go with prior = {self.prior!r}, which is "
                f"made for the Gaussian one; choose posterior = 'gaussian', or another prior"
            )
        if self.likelihood == "autoregressive":
            check_window(self.window)
        if self.likelihood == "autoregressive" and self.mean_samples:
            raise UserError(
                "mean_samples = True shows means of pixels that are independent given z; those of "
                "likelihood = 'autoregressive' are not: choose mean_samples = False"
            )
        if self.objective == "iwae" and (self.beta != 1 or self.kl_warmup):
            raise UserError(
                f"beta = {self.beta} and kl_warmup = {self.kl_warmup} are settings of the ELBO; "
                f"choose objective = 'elbo', or leave them at 1 and 0"
            )


def check_window(side: int) -> None:
    """UserError for a square around nothing."""
    if side % 2 == 0:
        raise UserError(f"window = {side} has no centre; choose an odd number, {side + 1} for one")


def encoder_outputs(config: VAEConfig) -> int:
    """How many numbers the encoder gives for an image."""
    M = config.latent_dim
    more = {"full": M * (M - 1) // 2, "coupling": config.context, "iaf": config.context}
    return 2 * M + more.get(config.posterior, 0)


@dataclass(frozen=True)
class PixelFlowConfig:
    """A coupling flow on dequantized pixels in logit space."""

    __pydantic_config__ = STRICT
    kind: Literal["pixelflow"] = "pixelflow"
    network: Literal["conv", "patch", "mlp"] = "conv"
    """A multi-scale flow with convolutions as Glow's or with MLPs of 5x5 patches, or masked
    couplings of all pixels with MLPs."""
    scales: Annotated[int, Field(ge=1, le=8)] = 2
    """Of the multi-scale flow."""
    steps: Count = 6
    """Coupling, 1x1 convolution and normalisation at each scale; or masked couplings, 2 or more."""
    width: Count = 96
    """Channels of the couplings' networks, or units of their two hidden layers."""
    blocks: Annotated[int, Field(ge=0, le=100)] = 0
    """Residual blocks of convolutional ones, 0 for a 3x3-1x1-3x3 net; with them the width
    is a multiple of 8."""
    coupling: Literal["affine", "spline"] = "affine"
    """The map of each coordinate."""
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    """Of the spline maps."""
    autoregressive_layers: Annotated[int, Field(ge=0, le=8)] = 0
    """Layers of pixel after pixel between couplings and pixels, forwards and backwards by turns;
    their networks are `width` wide too."""
    window: Annotated[int, Field(ge=3, le=99)] = 9
    """Side of the square in which such a layer sees the pixels before its centre; odd."""
    low: Annotated[float, Field(ge=1e-7, lt=0.5)] = 1e-6
    """The logit is of low + (1 - 2 low) y; of less, 1 - low would be rounded to 1."""
    dequantization: Literal["uniform", "variational"] = "uniform"
    """q(u|x): uniform, or learned couplings that see the image."""
    dequantization_steps: Annotated[int, Field(ge=2, le=256)] = 4
    """Couplings of the learned one."""
    dequantization_width: Count = 32
    """Channels of its networks."""

    def __post_init__(self) -> None:
        """One masked coupling would leave half of the pixels as they are, and a window has a
        centre."""
        if self.network == "mlp" and self.steps < 2:
            raise UserError("steps = 1 leaves half of the pixels unchanged; choose 2 or more")
        check_window(self.window)


@dataclass(frozen=True)
class DDPMConfig:
    """A U-Net and its chain."""

    __pydantic_config__ = STRICT
    kind: Literal["ddpm"] = "ddpm"
    widths: EightChannels = (64, 128)
    """Channels at half, a quarter, ... of the image's size; multiples of 8."""
    blocks: Count = 1
    """Residual blocks at each of these sizes, on the way down and on the way up."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the feature maps that each residual block drops in training."""
    timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    schedule: Literal["linear", "cosine", "learned"] = "cosine"
    """A learned one makes a VDM: continuous time, trained on its bound, `timesteps` to sample."""
    prediction: Prediction = "v"
    min_snr: Annotated[float, Field(gt=0)] | None = None
    """gamma of the loss weight min(SNR, gamma) of Hang et al. 2023; without it, L_simple."""
    variance: Variance = "small"
    """Of the reverse steps: that of q(x_{t-1}|x_t,x_0), beta_t, or learned between the two."""

    def __post_init__(self) -> None:
        """A learned schedule is trained on the bound, which leaves nothing to weigh."""
        if self.schedule == "learned" and (self.min_snr or self.variance != "small"):
            raise UserError(
                f"min_snr = {self.min_snr} and variance = {self.variance!r} do not go with "
                f"schedule = 'learned'; leave them out, or choose schedule = 'cosine'"
            )
        if self.schedule == "learned" and self.prediction == "x_0":
            raise UserError(
                "prediction = 'x_0' does not go with schedule = 'learned', whose bound divides its "
                "error by what little noise there is at the end; choose 'v' or 'eps'"
            )


@dataclass(frozen=True)
class LatentDDPMConfig:
    """A beta-VAE of grey values, trained first, and a chain in its latent space."""

    __pydantic_config__ = STRICT
    kind: Literal["latent"] = "latent"
    vae: VAEConfig = field(default_factory=lambda: VAEConfig(likelihood="gaussian"))
    vae_train: TrainConfig = field(default_factory=lambda: TrainConfig(clip=1000.0))
    """How it is trained."""
    width: Count = 512
    blocks: Count = 3
    """Residual blocks of the network that denoises, of `width` units each."""
    timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    schedule: Literal["linear", "cosine"] = "cosine"
    prediction: Prediction = "v"

    def __post_init__(self) -> None:
        """Diffusion is on one level of latents, and what it draws is shown as E[x|z]."""
        if self.vae.likelihood == "autoregressive":
            raise UserError(
                "a latent DDPM shows means of pixels, which likelihood = 'autoregressive' does not "
                "have; choose another likelihood for its VAE, 'gaussian' for one"
            )
        if self.prediction == "eps" and self.schedule == "cosine":
            raise UserError(
                "prediction = 'eps' does not go with schedule = 'cosine' in a latent space: where "
                "the chain starts it leaves so little of z that the network's error is multiplied "
                "by thousands, and there is no range to clip z to; choose prediction = 'v', or "
                "schedule = 'linear'"
            )
        if self.vae.prior in HIERARCHICAL:
            raise UserError(
                f"a latent DDPM needs a VAE of one level, not prior = {self.vae.prior!r}; choose "
                f"another"
            )


ModelConfig = VAEConfig | PixelFlowConfig | DDPMConfig | LatentDDPMConfig


def convolves(config: ModelConfig) -> bool:
    """Whether the model's networks are convolutional."""
    if isinstance(config, LatentDDPMConfig):
        return convolves(config.vae)
    if isinstance(config, VAEConfig):
        return config.network == "residual" or config.likelihood == "autoregressive"
    return not isinstance(config, PixelFlowConfig) or config.network != "mlp"
