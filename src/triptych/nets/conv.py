"""Convolutional networks that keep the image's size, and what image networks need of a size."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

GROUPS = 8  # of every group normalisation
LEAST = 4  # numbers in a group: of one there is nothing left, of two only which is larger


def check_levels(shape: tuple[int, int, int], channels: Sequence[int]) -> None:
    """ValueError where images cannot be halved so often, or a level is too small to normalise."""
    _, h, w = shape
    n = len(channels)
    if h % 2**n or w % 2**n:
        raise ValueError(
            f"{h}x{w} images cannot be halved {n} times, once for each of {list(channels)}"
        )
    for level, c in enumerate(channels, start=1):
        size = (h // 2**level, w // 2**level)
        if c // GROUPS * size[0] * size[1] < LEAST:
            raise ValueError(f"{c} channels at {size[0]}x{size[1]} are too few to normalise")


class ConvNet(nn.Sequential):
    """The network of a coupling layer on images: 3x3, 1x1, 3x3 with ReLU, starting at zero (Glow's;
    with SiLU a flow of the same size learns slower)."""

    def __init__(self, c_in: int, hidden: int, c_out: int) -> None:
        last = nn.Conv2d(hidden, c_out, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        super().__init__(
            nn.Conv2d(c_in, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            last,
        )

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H W"]:
        """With channels last in memory, which suits convolutions of few channels."""
        # Not `memory_format`, which vmap does not know
        return super().forward(input.movedim(-3, -1).contiguous().movedim(-1, -3))
