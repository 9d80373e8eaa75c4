"""What a model is shown of an image of integers k in 0..levels-1.

A view is applied per batch, on the device where the images are. Dequantization and logits are not
views: a likelihood has to count them, so they belong to the models.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float32, UInt8
from torch import Generator, Tensor

from triptych.errors import UserError

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


def _need_integers(images: Tensor) -> None:
    # A view of a view would be silently all zero.
    if images.dtype != torch.uint8:
        raise TypeError(f"a view takes uint8 images, not {images.dtype}")
