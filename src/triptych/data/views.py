"""What a model is shown of an image of integers k in 0..levels-1.

A view is applied per batch, on the device where the images are. Dequantization and logits are not
views: a likelihood has to count them, so they belong to the models.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Generator, Tensor

from triptych.errors import UserError
from triptych.likelihoods import Bernoulli
from triptych.pixelvae import AutoregressiveBernoulli

View = Callable[[Tensor, int, Generator | None], Tensor]


def threshold(
    images: UInt8[Tensor, "*shape"], levels: int, generator: Generator | None = None
) -> Float32[Tensor, "*shape"]:
    """1 where k / (levels - 1) > 1/2, else 0. Draws nothing; the generator is not used."""
    _need_integers(images)
    white = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    return torch.gt(images, (levels - 1) // 2, out=white)


def dynamic(
    images: UInt8[Tensor, "*shape"], levels: int, generator: Generator | None
) -> Float32[Tensor, "*shape"]:
    """A fresh Bernoulli(k / (levels - 1)) draw per pixel; the generator is on the images' device.

    Raises:
        ValueError: no generator; a draw from hidden global state could not be repeated.
    """
    _need_integers(images)
    if generator is None:
        raise ValueError("the dynamic view draws: give it a generator")
    u = torch.rand(images.shape, generator=generator, device=images.device)
    return (u < images.float() / (levels - 1)).float()


def raw(
    images: UInt8[Tensor, "*shape"], levels: int, generator: Generator | None = None
) -> Float32[Tensor, "*shape"]:
    """The integers themselves. Draws nothing; the generator is not used."""
    _need_integers(images)
    return images.float()


_BY_NAME: dict[str, View] = {"threshold": threshold, "dynamic": dynamic, "raw": raw}
VIEWS = tuple(_BY_NAME)


def view(name: str) -> View:
    """The view of this name, as a function of (images, levels, generator).

    Raises:
        UserError: no view has this name.
    """
    if name not in _BY_NAME:
        raise UserError(f"unknown view {name!r}: choose one of {', '.join(VIEWS)}")
    return _BY_NAME[name]


def check_shown(model: Any, x: Tensor) -> None:
    """ValueError for images that are not as the model takes them: it gives a bound for any, but of
    these it would mean nothing.

    A model or likelihood that has `levels` takes the whole numbers from 0 on, in floating point; a
    Bernoulli likelihood numbers from 0 to 1.
    """
    part = seen_by(model)
    shape, levels = getattr(part, "shape", None), getattr(part, "levels", None)
    if x.numel() == 0 or (shape is not None and x.shape[1:] != shape):
        wanted = "images" if shape is None else f"images of {list(shape)}"
        raise ValueError(f"the model takes {wanted}, and was given {list(x.shape)}")
    if other := {p.dtype for p in model.parameters()} - {x.dtype}:
        raise ValueError(
            f"the model is of {other.pop()}, and the images are {x.dtype}; give a view of them, or "
            f"convert one to the other"
        )
    binary = isinstance(part, Bernoulli | AutoregressiveBernoulli)
    if binary:
        kind, top = "numbers", 1
    elif levels is not None:
        kind, top = "whole numbers", levels - 1
    else:
        return
    low, high = x.min().item(), x.max().item()
    if not 0 <= low <= high <= top or (not binary and bool((x != x.round()).any())):
        raise ValueError(
            f"the model takes {kind} from 0 to {top}, and was given some from {low:g} to {high:g}; "
            f"choose another view of the images"
        )


def check_levels(model: Any, levels: int) -> None:
    """ValueError for a model of images with another number of grey levels."""
    if (its := getattr(seen_by(model), "levels", None)) not in (None, levels):
        raise ValueError(f"the model is of {its} grey levels, and the images have {levels}")


def seen_by(model: Any) -> Any:
    """The part of a model that says which images it takes: of a VAE, a latent DDPM's too, its
    likelihood."""
    part = getattr(model, "autoencoder", model)
    return getattr(part, "likelihood", part)


def _need_integers(images: Tensor) -> None:
    # A view of a view would be silently all zero.
    if images.dtype != torch.uint8:
        raise TypeError(f"a view takes uint8 images, not {images.dtype}")
