"""How integers become real numbers: q(u|x) on [0, 1)^D, given the integer image x.

A flow moves uniform noise v to the offsets u, so that log q(u|x) = -log|det du/dv|. Where nothing
moves, the offsets are uniform (Theis, van den Oord & Bethge 2016, arXiv:1511.01844, section 3.1);
where the flow is learned, dequantization is variational (Ho, Chen, Srinivas, Duan & Abbeel 2019,
*Flow++*, arXiv:1902.00275).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from triptych.flows.coupling import Affine, Coupling, Elementwise, own_copy
from triptych.flows.multiscale import Logit, NetFor
from triptych.nets.conv import ConvNet

SMALLEST = 2.0**-25  # half the spacing of torch's uniform numbers, which can be zero


class UniformDequantization(nn.Module):
    """u = v."""

    def forward(
        self, v: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B C H W"], Tensor]:
        """(u, log|det du/dv| = 0)."""
        return v, torch.zeros((), dtype=v.dtype, device=v.device)


class VariationalDequantization(nn.Module):
    """u = sigmoid(g(logit v; x)), with g couplings whose networks also see the image.

    Of each 2x2 patch they move the two diagonals in turn, by what the other one and the image are.
    They start as the identity: uniform dequantization.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        steps: int,
        hidden: int,
        f: Elementwise | None = None,
        net_for: NetFor = ConvNet,
    ) -> None:
        super().__init__()
        c, h, w = shape
        if h % 2 or w % 2:
            raise ValueError(f"{h}x{w} images cannot be cut into 2x2 patches")
        f = f or Affine()
        corner = torch.arange(4 * c) % 4  # of its 2x2 patch, that a channel of pixel_unshuffle is
        diagonal = (corner == 0) | (corner == 3)
        self.couplings = nn.ModuleList()
        for i in range(steps):
            net = net_for((6 * c, h // 2, w // 2), hidden, f.per_coordinate * 2 * c)
            mask = diagonal if i % 2 == 0 else ~diagonal
            self.couplings.append(Coupling(mask, net, own_copy(f), 3))
        self.sigmoid, self.white = Logit(0.0), levels - 1

    def forward(
        self, v: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B"]]:
        """(u, log|det du/dv|) of the integer images x."""
        seen = pixel_unshuffle(x / self.white - 0.5, 2)
        logit_v, log_det = self.sigmoid.inverse(v.clamp(min=SMALLEST))
        z = pixel_unshuffle(logit_v, 2)
        for coupling in self.couplings:
            z, ld = coupling(z, seen)
            log_det = log_det + ld
        u, ld = self.sigmoid(pixel_shuffle(z, 2))
        return u, log_det + ld
