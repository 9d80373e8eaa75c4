"""Convolutional networks that keep the image's size."""

from torch import nn


class ConvNet(nn.Sequential):
    """The network of a coupling layer on images: 3x3, 1x1, 3x3, starting at zero."""

    def __init__(self, c_in: int, hidden: int, c_out: int) -> None:
        last = nn.Conv2d(hidden, c_out, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        super().__init__(
            nn.Conv2d(c_in, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.SiLU(),
            last,
        )
