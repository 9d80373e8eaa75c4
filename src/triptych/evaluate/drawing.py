"""What a model sees of images, its samples, and the words for how they were drawn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from triptych.data import view
from triptych.ddpm import DDPM
from triptych.errors import UserError
from triptych.evaluate.evaluation import Drawing, Evaluation, Say, quiet
from triptych.evaluate.memory import drawn_in_halves
from triptych.latent import LatentDDPM
from triptych.pixelflow import PixelFlow
from triptych.samplers import SAMPLERS, WITH_ETA, evaluations
from triptych.train.capture import CapturedCalls
from triptych.train.order import Stream, generator_for
from triptych.train.precision import bf16_helps, networks_in_bf16
from triptych.vae import VAE
from triptych.vdm import VDM

TOGETHER, TOGETHER_ON_GPU = 500, 2500  # images drawn at a time


def sampler(model: nn.Module, how: Evaluation, g: Generator) -> Callable[[int], Tensor]:
    """A function that draws the next n samples of a model, its networks in bfloat16 if that helps
    and is not forbidden.

    Only the networks that make samples run so; everything that measures them does not. On a GPU a
    chain's network is called as a CUDA graph.
    """
    if how.temperature != 1 and not isinstance(model, PixelFlow):
        raise UserError(
            f"temperature = {how.temperature:g} applies to a pixel flow, not to a "
            f"{type(model).__name__}; choose 1"
        )
    bf16, chain = how.bf16 and bf16_helps(g.device), chain_of(model)
    graphs = CapturedCalls(nn.Identity() if chain is None else chain.net)

    @torch.no_grad()
    def together(n: int) -> Tensor:
        with networks_in_bf16(model, bf16), graphs.in_use(g.device):
            if isinstance(model, LatentDDPM):
                return model.decode(latents(model, how, n, g))
            if chain is not None:
                return run_chain(chain, how, n, g)
            if isinstance(model, PixelFlow):
                return model.sample(n, g, how.temperature)
            return model.sample(n, g)  # pyright: ignore[reportCallIssue]

    return lambda n: drawn_in_halves(together, n)


def run_chain(chain: DDPM, how: Drawing, n: int, g: Generator) -> Float[Tensor, "n C H W"]:
    """n draws of a chain by the sampler that is asked for."""
    if how.sampler == "ancestral":
        return chain.sample(n, g)
    chosen = {"eta": how.eta} if how.sampler in WITH_ETA else {}
    return SAMPLERS[how.sampler](
        chain, n, min(how.steps, chain.T), g, **chosen, **optional_settings(how)
    )


def optional_settings(how: Drawing) -> dict[str, float]:
    """`noise_below` and `rho` where they are set; left out, a sampler uses its own."""
    return {n: v for n in ("noise_below", "rho") if (v := getattr(how, n)) is not None}


@torch.no_grad()
def latents(model: LatentDDPM, how: Drawing, n: int, g: Generator) -> Float[Tensor, "n M"]:
    """n draws of a latent DDPM before they are decoded."""
    return model.latents(run_chain(model.ddpm, how, n, g))


def enough(
    shown: Tensor, draw: Callable[[int], Tensor], n: int, say: Say = quiet
) -> Float[Tensor, "n C H W"]:
    """n samples: those shown, then more."""
    samples, most = [shown[:n]], TOGETHER if shown.device.type == "cpu" else TOGETHER_ON_GPU
    while (missing := n - sum(map(len, samples))) > 0:
        say(f"{n - missing:,} of {n:,} samples")
        samples.append(draw(min(most, missing)))
    return torch.cat(samples)


def chain_of(model: nn.Module) -> DDPM | None:
    """The chain that a model samples by, if it has one."""
    if isinstance(model, LatentDDPM):
        return model.ddpm
    if isinstance(model, VDM):
        return model.chain()
    return model if isinstance(model, DDPM) else None


def seen(images: UInt8[Tensor, "n C H W"], levels: int, view_name: str) -> Float[Tensor, "n C H W"]:
    """Images to judge by, as the model sees its own: the same pixels at any time, on any device."""
    noise = generator_for(0, 0, torch.device("cpu"), stream=Stream.VIEWS)
    return view(view_name)(images.cpu(), levels, noise).to(images.device)


def as_bytes(x: Tensor) -> NDArray[np.uint8]:
    """Grey values in [0, 1] as 0 .. 255."""
    return (255 * x).round().byte().cpu().numpy()


def shows_means(model: nn.Module) -> bool:
    """Whether its samples are E[x|z], the noise of p(x|z) left out."""
    return isinstance(model, LatentDDPM) or (isinstance(model, VAE) and model.mean_samples)


def pixels_protocol(model: nn.Module) -> dict[str, Any]:
    """What is shown of p(x|z), where there is one."""
    if not isinstance(model, VAE | LatentDDPM):
        return {}
    return {"pixels": "means" if shows_means(model) else "drawn"}


def sampling_protocol(model: nn.Module, how: Evaluation) -> dict[str, Any]:
    """How the samples were drawn, where there is a choice."""
    if (chain := chain_of(model)) is not None:
        return chain_protocol(chain, how)
    if not isinstance(model, VAE | PixelFlow):  # one of one's own, which settings say nothing of
        return {"sampler": type(model).__name__}
    return {} if how.temperature == 1 else {"temperature": how.temperature}


def chain_protocol(chain: DDPM, how: Drawing) -> dict[str, Any]:
    """How a chain was drawn from."""
    steps = chain.T if how.sampler == "ancestral" else min(how.steps, chain.T)
    networks = 1 if how.guidance == 1 else 2
    said = {
        "sampler": how.sampler,
        "steps": steps,
        "evaluations": networks * evaluations(how.sampler, steps),
        "clip": "x_0 to [-1, 1]" if chain.clip else "none",
    }
    if how.sampler in WITH_ETA:
        said["eta"] = how.eta
    said |= optional_settings(how)
    return said if networks == 1 else said | {"guidance": how.guidance}
