import math

import pytest
import torch

from triptych.flows.spline import RationalQuadratic

pytestmark = pytest.mark.usefixtures("float64")

SPLINE = RationalQuadratic(bins=6, reach=2.0)


def theta(n, std=1.5):
    return std * torch.randn(SPLINE.per_coordinate, n)


def test_zero_parameters_are_the_identity():
    z = 4 * torch.randn(50)
    for move in (SPLINE.forward, SPLINE.inverse):
        x, log_slope = move(z, torch.zeros(SPLINE.per_coordinate, 50))
        torch.testing.assert_close(x, z)
        torch.testing.assert_close(log_slope, torch.zeros(50))


def test_a_spline_is_zukos():
    zuko = pytest.importorskip("zuko")
    free, z = theta(200), 2 * torch.randn(200)
    theirs = zuko.transforms.MonotonicRQSTransform(
        torch.zeros(200, 6), torch.zeros(200, 6), torch.zeros(200, 5)
    )
    widths, heights, slopes = free.split([6, 6, 5])
    theirs.horizontal, theirs.vertical = SPLINE.knots(widths).T, SPLINE.knots(heights).T
    theirs.derivatives = SPLINE.slopes(slopes).T
    expected, ladj = theirs.call_and_ladj(z)
    x, log_slope = SPLINE.forward(z, free)
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(log_slope, ladj)
    torch.testing.assert_close(SPLINE.inverse(z, free)[0], theirs.inv(z))


def test_a_spline_is_nflows_of_the_same_parameters():
    splines = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    free, z = theta(200), 2 * torch.randn(200)
    widths, heights, slopes = free.split([6, 6, 5])
    # Theirs has slope softplus(0) where the parameter is zero, ours one.
    start = math.log(math.expm1(1 - SPLINE.SMALLEST))
    parameters = (widths.T, heights.T, slopes.T + start)
    for move, inverse in ((SPLINE.forward, False), (SPLINE.inverse, True)):
        expected, ladj = splines.unconstrained_rational_quadratic_spline(
            z, *parameters, inverse=inverse, tail_bound=2.0
        )
        x, log_slope = move(z, free)
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close(log_slope, ladj)


def test_it_rises_and_is_smooth_at_its_knots_and_ends():
    """Slopes from both sides of every knot agree; beyond the ends it is the identity."""
    free = theta(1)
    knots = SPLINE.knots(free[:6])[:, 0]
    slopes = SPLINE.slopes(free[12:])[:, 0]
    for side in (-1e-9, 1e-9):
        _, log_slope = SPLINE.forward(knots + side, free.expand(-1, 7))
        torch.testing.assert_close(log_slope.exp(), slopes, rtol=1e-4, atol=0)
    x, _ = SPLINE.forward(torch.linspace(-3, 3, 500), free.expand(-1, 500))
    assert (x.diff() > 0).all()
    far = torch.tensor([-7.0, 2.0, 9.0])
    assert torch.equal(SPLINE.forward(far, free.expand(-1, 3))[0], far)


def test_extreme_parameters_stay_finite_and_invertible():
    free, z = theta(300, 40.0), torch.linspace(-1.99, 1.99, 300)
    x, log_slope = SPLINE.forward(z, free)
    assert log_slope.isfinite().all()
    torch.testing.assert_close(SPLINE.inverse(x, free)[0], z, atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter_and_stay_finite_outside():
    free = theta(40).requires_grad_()
    z = torch.linspace(-3, 3, 40).requires_grad_()
    x, log_slope = SPLINE.inverse(z, free)
    (x + log_slope).sum().backward()
    assert free.grad.isfinite().all()
    assert z.grad.isfinite().all()
    assert (free.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("bins", [0, 1, 1000])
def test_splines_that_cannot_be_are_refused(bins):
    with pytest.raises(ValueError, match="2 or more bins"):
        RationalQuadratic(bins)


def test_single_precision_never_leaves_the_bin():
    """Rounding in the inverse once gave the logarithm of a negative slope."""
    free = 12 * torch.randn(SPLINE.per_coordinate, 40_000, dtype=torch.float32)
    z = 4 * torch.rand(40_000, dtype=torch.float32) - 2
    x, _ = SPLINE.forward(z, free)
    _, log_slope = SPLINE.inverse(x, free)
    assert log_slope.isfinite().all()


def test_just_below_a_knot_the_inverse_has_gradients():
    """There the root that solves the quadratic may be rounded to zero, whose slope is infinite."""
    spline, n = RationalQuadratic(8), 60_000
    theta = 4 * torch.randn(spline.per_coordinate, n, dtype=torch.float32)
    knots = spline.knots(theta[8:16]).gather(0, torch.randint(1, 8, (1, n)))[0]
    x = torch.nextafter(knots, torch.full_like(knots, -10.0)).requires_grad_()
    z, log_slope = spline.inverse(x, theta.requires_grad_())
    for gradient in torch.autograd.grad((z + log_slope).sum(), (x, theta)):
        assert gradient.isfinite().all()


def test_below_a_steep_knot_single_precision_is_enough():
    """There -b and the root of the quadratic are nearly one number."""
    spline = RationalQuadratic(2)
    theta = torch.tensor([8.0, -8, -8, 8, 30], dtype=torch.float32)[:, None].expand(-1, 500)
    knot = spline.knots(theta[2:4])[1, 0].item()
    x = torch.linspace(-5, knot, 502, dtype=torch.float32)[1:-1]
    found, exact = spline.inverse(x, theta)[1], spline.inverse(x.double(), theta.double())[1]
    torch.testing.assert_close(found.double(), exact, atol=2e-2, rtol=0)
