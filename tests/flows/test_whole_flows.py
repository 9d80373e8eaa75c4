"""The flow priors, all layers and the base, beside those of nflows and zuko with the same weights:
the order of layers, of coordinates and of parameters, and every sign between them."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import AffineTransform
from toys import randomised

from triptych.flows.autoregressive import MaskedLinear
from triptych.flows.coupling import Affine
from triptych.flows.flow import autoregressive_flow, coupling_flow
from triptych.flows.spline import RationalQuadratic
from triptych.nets.mlp import MLP
from triptych.priors.gaussian import StandardGaussian

pytest.importorskip("nflows")
zuko = pytest.importorskip("zuko")

DIM, LAYERS, HIDDEN = 4, 3, [9, 6]  # HIDDEN in multiples of DIM - 1: units of each degree alike
SPLINE, AFFINE = RationalQuadratic(bins=5, reach=3.0), Affine()

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:Inputs to the softmax are not scaled down"),
]


class WithoutContext(nn.Module):
    """A network as nflows calls it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, context):
        assert context is None
        return self.net(x)


def nflows_of(flow):
    """Theirs leads from data to noise, changes where the mask is one, and has a coordinate's
    parameters side by side, those of the slopes zero where the slope is softplus(0)."""
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms import CompositeTransform, InverseTransform
    from nflows.transforms.coupling import PiecewiseRationalQuadraticCouplingTransform

    def network(ours):
        def create(inputs, outputs):
            theirs = WithoutContext(MLP([inputs, *HIDDEN, outputs]))
            theirs.net.load_state_dict(ours.net.state_dict())
            last, rows = theirs.net[-1], torch.arange(outputs).view(SPLINE.per_coordinate, -1)
            last.bias[rows[2 * SPLINE.bins :]] += math.log(math.expm1(1 - SPLINE.SMALLEST))
            for p in last.parameters():
                p.copy_(p[rows.T.flatten()])
            return theirs

        return create

    def layer(ours):
        changes = torch.zeros(DIM).index_fill(0, ours.b, 1)
        return PiecewiseRationalQuadraticCouplingTransform(
            changes, network(ours), SPLINE.bins, tails="linear", tail_bound=SPLINE.reach
        )

    inverses = [InverseTransform(layer(ours)) for ours in reversed(flow.bijectors)]
    return Flow(CompositeTransform(inverses), StandardNormal([DIM]))


def zukos_of(flow):
    """Theirs, too, leads from data to noise, and has a coordinate's parameters side by side; hidden
    units of each degree stand in another order."""

    def univariate(s, t):
        s = AFFINE.cap * (s / AFFINE.cap).tanh()
        return AffineTransform(-t * (-s).exp(), (-s).exp())

    def layer(ours):
        theirs = zuko.flows.autoregressive.MaskedAutoregressiveTransform(
            DIM, order=ours.order, univariate=univariate, hidden_features=HIDDEN, activation=nn.SiLU
        )
        copied = [m for m in ours.net if isinstance(m, MaskedLinear)]
        linear = [m for m in theirs.hyper if isinstance(m, nn.Linear)]
        columns = ours.order
        for mine, their in zip(copied[:-1], linear[:-1], strict=True):
            rows = matching(mine.mask.sum(1), their.mask.sum(1))
            their.weight.copy_(mine.weight[rows][:, columns])
            their.bias.copy_(mine.bias[rows])
            columns = rows
        rows = torch.stack([ours.order, ours.order + DIM], 1).flatten()
        linear[-1].weight.copy_(copied[-1].weight[rows][:, columns])
        linear[-1].bias.copy_(copied[-1].bias[rows])
        return theirs

    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(DIM), torch.ones(DIM), buffer=True
    )
    return zuko.flows.Flow([layer(ours) for ours in reversed(flow.bijectors)], base)


def matching(ours, theirs):
    """For each of theirs the place of one of ours that sees as many, each taken once."""
    places = {int(n): iter((ours == n).nonzero().flatten().tolist()) for n in ours.unique()}
    return torch.tensor([next(places[int(n)]) for n in theirs])


@torch.no_grad()
def test_a_spline_prior_is_nflows_with_the_same_weights():
    flow = coupling_flow(StandardGaussian(DIM), DIM, LAYERS, HIDDEN, SPLINE)
    theirs, x = nflows_of(randomised(flow, 0.5)), 1.5 * torch.randn(50, DIM)
    torch.testing.assert_close(flow.log_prob(x), theirs.log_prob(x))
    z, _ = flow.inverse(x)
    torch.testing.assert_close(z, theirs.transform_to_noise(x))
    assert (x - z).abs().mean() > 0.1
    torch.testing.assert_close(flow(z)[0], theirs._transform.inverse(z)[0])


@torch.no_grad()
def test_an_autoregressive_prior_is_zukos_with_the_same_weights():
    flow = autoregressive_flow(StandardGaussian(DIM), DIM, LAYERS, HIDDEN, AFFINE)
    theirs, x = zukos_of(randomised(flow, 0.3))(), 1.5 * torch.randn(50, DIM)
    torch.testing.assert_close(flow.log_prob(x), theirs.log_prob(x))
    z, _ = flow.inverse(x)
    torch.testing.assert_close(z, theirs.transform(x))
    assert (x - z).abs().mean() > 0.1
    torch.testing.assert_close(flow(z)[0], theirs.transform.inv(z))
