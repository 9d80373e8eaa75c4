"""A flow of two pixels, whose P(x) is an integral over the unit square: by Gauss and Legendre."""

import itertools

import numpy as np
import pytest
import torch
from toys import randomised

from triptych.evaluate.likelihood import flow_bounds
from triptych.flows.coupling import Affine
from triptych.flows.flow import Flow
from triptych.flows.masked import Reshape, masked_flow
from triptych.flows.multiscale import Logit
from triptych.flows.raster import RasterAutoregressive
from triptych.flows.spline import RationalQuadratic
from triptych.pixelflow import PixelFlow
from triptych.priors.gaussian import StandardGaussian

SHAPE, LEVELS, NODES = (1, 1, 2), 3, 24

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=["affine", "spline", "pixels in turn"])
def model(request):
    f = Affine() if request.param == "affine" else RationalQuadratic(4)
    if request.param == "pixels in turn":
        turns = [RasterAutoregressive(SHAPE, 8, 3, f, backwards) for backwards in (True, False)]
        layers = [Reshape([2], SHAPE), *turns]
    else:
        layers = masked_flow(SHAPE, 3, [8], f)
    flow = Flow(StandardGaussian(2), [*layers, Logit(0.1)])
    return randomised(PixelFlow(flow, SHAPE, LEVELS), 0.15)


@torch.no_grad()
def log_probability(model, x):
    """log of the integral of w over all offsets, by quadrature in each of four by four cells."""
    node, weight = np.polynomial.legendre.leggauss(NODES)
    edge = np.arange(4) / 4
    u = torch.tensor((edge[:, None] + (node + 1) / 8).ravel())
    w = torch.tensor(np.tile(weight / 8, 4))
    grid = torch.cartesian_prod(u, u).view(-1, *SHAPE)
    total = torch.outer(w, w).flatten() @ model.log_weight(x.expand_as(grid), grid).exp()
    return total.log().item()


def every_image():
    return torch.tensor(list(itertools.product([0.0, 1.0, 2.0], repeat=2))).view(9, *SHAPE)


def test_all_probabilities_and_the_mass_outside_sum_to_one(model, g):
    inside = sum(np.exp(log_probability(model, x[None])) for x in every_image())
    y = model.flow.sample(200_000, g)
    share = ((y < 0) | (y > 1)).flatten(1).any(1).double().mean().item()
    assert inside + share == pytest.approx(1, abs=5e-3)


def test_bounds_rise_to_the_probability_with_the_draws(model, g):
    x = every_image()
    exact = torch.tensor([log_probability(model, one[None]) for one in x])
    many = x.repeat(200, 1, 1, 1)
    bound, few = (e.values.view(200, 9).mean(0) for e in flow_bounds(model, many, 4, g))
    assert (bound < few).all()
    assert (few < exact + 0.05).all()
    assert (exact - bound).max() > 0.03
    _, tight = flow_bounds(model, many[:450], 50, g)  # E[exp IWAE-K] = P(x) at any K
    found = tight.values.view(50, 9).exp().mean(0)
    assert exact.exp().max() > 0.1
    torch.testing.assert_close(found, exact.exp(), atol=0.004, rtol=0.01)
