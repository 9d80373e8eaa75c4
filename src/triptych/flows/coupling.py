"""Affine coupling (Dinh, Sohl-Dickstein & Bengio 2017, *Density estimation using Real NVP*,
arXiv:1605.08803), on vectors and on images.

The coordinates are split in two. Those in `a` pass unchanged and a network reads them; those in
`b` are scaled and shifted by what the network says:

    x_a = z_a,    x_b = z_b * exp(s(z_a)) + t(z_a),    log|det dx/dz| = sum s

The triangular Jacobian makes the determinant a sum, and the inverse as cheap as the map.
"""

from jaxtyping import Bool
from torch import Tensor, nn
from torch import cat as concatenate


class AffineCoupling(nn.Module):
    """Masked affine coupling. One network gives scale and shift; it sees only `x_a`.

    `mask` marks the coordinates that pass unchanged, along the last dimension of a vector
    (`event_dims=1`) or along the channels of an image (`event_dims=3`). The log scale is
    bounded, `s = cap tanh(s' / cap)`, so that no layer can blow up; a network whose last layer
    starts at zero makes the layer start as the identity.
    """

    a: Tensor
    b: Tensor
    back: Tensor

    def __init__(
        self, mask: Bool[Tensor, "D"], net: nn.Module, event_dims: int = 1, cap: float = 2.0
    ) -> None:
        super().__init__()
        if bool(mask.all()) or not bool(mask.any()):
            raise ValueError("a coupling mask must leave coordinates on both sides")
        a, b = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)
        self.net, self.event_dims, self.cap = net, event_dims, cap
        self.dim = -event_dims
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        self.register_buffer("back", concatenate([a, b]).argsort(), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z -> x and log|det dx/dz|."""
        z_a, z_b = self.split(z)
        s, t = self.scale_and_shift(z_a)
        return self.join(z_a, z_b * s.exp() + t), self.total(s)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x -> z and log|det dz/dx|."""
        x_a, x_b = self.split(x)
        s, t = self.scale_and_shift(x_a)
        return self.join(x_a, (x_b - t) * (-s).exp()), -self.total(s)

    def scale_and_shift(self, x_a: Tensor) -> tuple[Tensor, Tensor]:
        """(s, t) in full precision, whatever precision the network ran in."""
        s, t = self.net(x_a).to(x_a.dtype).chunk(2, self.dim)
        return self.cap * (s / self.cap).tanh(), t

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates that condition, and those that change."""
        return x.index_select(self.dim, self.a), x.index_select(self.dim, self.b)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Undo `split`."""
        return concatenate([x_a, x_b], self.dim).index_select(self.dim, self.back)

    def total(self, s: Tensor) -> Tensor:
        """Sum over the event, one number for each batch element."""
        return s.flatten(-self.event_dims).sum(-1)
