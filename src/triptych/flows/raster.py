"""Pixels one after the other: an autoregressive layer (Papamakarios, Pavlakou & Murray 2017,
arXiv:1705.07057) on an image, through a window as that of a masked convolution (van den Oord,
Kalchbrenner & Kavukcuoglu 2016, *Pixel Recurrent Neural Networks*, arXiv:1601.06759; in flows Ma et
al. 2019, *MaCow*, arXiv:1902.04208).

    x_d = f(z_d; theta_d(x_near(d))),    log|det dx/dz| = sum_d log f'

x_near(d) are the pixels before d, row by row, in a square of side w around it. They are there
already when an image is given, so that a density takes one pass; a sample is made pixel by pixel,
and each takes the network at that one place.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, pad, unfold

from triptych.flows.coupling import Elementwise
from triptych.nets.conv import at_zero, pixels_before
from triptych.protocols import WithLogDet


class NearNet(nn.Module):
    """At each of D places an MLP of what is near: three hidden layers of ReLU, starting at zero;
    the same at all of them, but for a bias of each place.

    The last bias, which all places share, is added in full precision, under bfloat16 too: it sets a
    spline's knots on the grey level that most pixels have, and must meet it to a fraction of a
    level (measured in results/bfloat16.md).
    """

    def __init__(self, places: int, near: int, hidden: int, c_out: int) -> None:
        super().__init__()
        self.near = nn.Linear(near, hidden, bias=False)
        self.place = nn.Parameter(torch.zeros(places, hidden))
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.last = at_zero(nn.Linear(hidden, c_out))

    def forward(
        self, near: Float[Tensor, "B d n"], places: slice = slice(None)
    ) -> Float[Tensor, "B d c_out"]:
        """Of the places named, all if none are."""
        hidden = self.near(near)
        hidden = self.rest(hidden + self.place[places].to(hidden.dtype))
        return linear(hidden, self.last.weight).to(near.dtype) + self.last.bias


class RasterAutoregressive(nn.Module):
    """One such layer on images of one channel, from the first pixel to the last, or backwards."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        hidden: int,
        window: int,
        f: Elementwise,
        backwards: bool = False,
    ) -> None:
        super().__init__()
        c, h, w = shape
        if c != 1:
            raise ValueError(f"pixels follow each other in one channel, not in {c}")
        self.shape, self.window, self.f, self.backwards = shape, window, f, backwards
        self.before = pixels_before(window)
        self.net = NearNet(h * w, self.before, hidden, f.per_coordinate)

    def inverse(self, x: Float[Tensor, "B 1 H W"]) -> WithLogDet:
        """x -> z and log|det dz/dx|, one pass."""
        x = self.turned(x)
        windows = unfold(self.framed(x), (self.window // 2 + 1, self.window)).mT
        theta = self.net(windows[..., : self.before]).movedim(-1, 0)
        z, log_slope = self.f.inverse(x.flatten(-3), theta)
        return self.turned(z.view_as(x)), log_slope.sum(-1)

    def forward(self, z: Float[Tensor, "B 1 H W"]) -> WithLogDet:
        """z -> x and log|det dx/dz|, pixel after pixel."""
        _, H, W = self.shape
        edge, z = self.window // 2, self.turned(z)
        frame = self.framed(torch.zeros_like(z))
        log_det = z.new_zeros(len(z))
        for d in range(H * W):
            i, j = divmod(d, W)
            seen = frame[:, :, i : i + edge + 1, j : j + self.window].flatten(1)[:, : self.before]
            theta = self.net(seen[:, None], slice(d, d + 1)).movedim(-1, 0)
            pixel, log_slope = self.f.forward(z[:, :, i, j], theta)
            frame[:, :, i + edge, j + edge] = pixel
            log_det = log_det + log_slope[:, 0]
        return self.turned(frame[..., edge:, edge : edge + W]), log_det

    def framed(self, x: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 h w"]:
        """With zeros above, and on both sides, where windows reach."""
        edge = self.window // 2
        return pad(x, (edge, edge, edge, 0))

    def turned(self, x: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
        """With the last pixel first, where the layer goes backwards; twice, as it was."""
        return x.flip(-2, -1) if self.backwards else x
