"""One test for every bijector: the round trip, and both log_dets against autodiff's Jacobian."""

import math
from functools import partial

import pytest
import torch
from torch.autograd.functional import jacobian
from toys import randomised

from triptych.flows.autoregressive import Autoregressive
from triptych.flows.coupling import Affine, Coupling
from triptych.flows.flow import Flow, coupling_flow
from triptych.flows.masked import checkerboard, masked_flow
from triptych.flows.multiscale import ActNorm, Invertible1x1, Logit, MultiScale
from triptych.flows.raster import RasterAutoregressive
from triptych.flows.spline import RationalQuadratic
from triptych.nets.conv import ConvNet, PatchNet
from triptych.nets.mlp import MLP
from triptych.nets.residual import ResidualConvNet
from triptych.priors.gaussian import StandardGaussian

pytestmark = pytest.mark.usefixtures("float64")


def vector_coupling():
    mask = torch.tensor([True, False, False, True, False])
    return Coupling(mask, MLP([2, 8, 6]), Affine())


def image_coupling():
    return Coupling(torch.arange(4) < 2, ConvNet((2, 2, 3), 6, 4), Affine(), 3)


def spline_coupling():
    mask = torch.tensor([True, False, False, True, False])
    return Coupling(mask, MLP([2, 8, 3 * 14]), RationalQuadratic(5, reach=1.5))


def spline_image_coupling():
    spline = RationalQuadratic(3, reach=1.5)
    return Coupling(torch.arange(4) < 2, PatchNet((2, 2, 3), 6, 2 * 8), spline, 3)


residual = partial(ResidualConvNet, blocks=1)


def masked(shape, f):
    D = math.prod(shape)
    return Flow(StandardGaussian(D), masked_flow(shape, 3, [8], f))


# What it is, how it is made, and the shape on the base's side.
BIJECTORS = {
    "coupling of vectors": (vector_coupling, (5,)),
    "coupling of images": (image_coupling, (4, 2, 3)),
    "spline coupling of vectors": (spline_coupling, (5,)),
    "spline coupling of images": (spline_image_coupling, (4, 2, 3)),
    "autoregressive": (lambda: Autoregressive(5, [8, 7], Affine()), (5,)),
    "autoregressive, backwards": (lambda: Autoregressive(4, [8], Affine(), True), (4,)),
    "autoregressive spline": (lambda: Autoregressive(4, [9], RationalQuadratic(4, 1.5)), (4,)),
    "activation normalisation": (lambda: ActNorm(3), (3, 2, 2)),
    "1x1 convolution": (lambda: Invertible1x1(4), (4, 2, 3)),
    "one scale": (lambda: MultiScale((1, 4, 2), 2, [6]), (8,)),
    "two scales": (lambda: MultiScale((1, 4, 4), 2, [6, 6]), (16,)),
    "two scales in colour": (lambda: MultiScale((3, 4, 4), 1, [4, 4]), (48,)),
    "two scales of splines": (
        lambda: MultiScale((1, 4, 4), 1, [6, 6], RationalQuadratic(3, reach=1.5)),
        (16,),
    ),
    "a scale of residual networks": (lambda: MultiScale((1, 4, 2), 2, [8], net_for=residual), (8,)),
    "two scales of networks of patches": (
        lambda: MultiScale((1, 8, 4), 1, [6, 6], net_for=PatchNet),
        (32,),
    ),
    "pixels in turn": (lambda: RasterAutoregressive((1, 3, 4), 6, 3, Affine()), (1, 3, 4)),
    "pixels in turn, backwards": (
        lambda: RasterAutoregressive((1, 2, 5), 6, 5, RationalQuadratic(3, reach=1.5), True),
        (1, 2, 5),
    ),
    "masked flow": (lambda: masked((1, 2, 3), Affine()), (6,)),
    "masked splines in colour": (lambda: masked((2, 2, 2), RationalQuadratic(3, reach=1.5)), (8,)),
    "logit": (lambda: Logit(0.01), (1, 2, 3)),
    "flow prior": (lambda: coupling_flow(StandardGaussian(5), 5, 3, [8]), (5,)),
    "pixel flow": (
        lambda: Flow(StandardGaussian(8), [MultiScale((1, 2, 4), 2, [6]), Logit(0.01)]),
        (8,),
    ),
}


@pytest.fixture(params=BIJECTORS.values(), ids=BIJECTORS)
def case(request):
    make, shape = request.param
    return randomised(make()), torch.randn(4, *shape)


def jacobian_log_det(f, points):
    def flat(point):
        return f(point[None])[0].flatten()

    jacobians = torch.stack([jacobian(flat, point).flatten(1) for point in points])
    return torch.linalg.slogdet(jacobians).logabsdet


def test_inverse_undoes_forward(case):
    bijector, z = case
    x, _ = bijector.forward(z)
    assert x.numel() == z.numel()
    assert not torch.allclose(x.flatten(1), z.flatten(1))
    torch.testing.assert_close(bijector.inverse(x)[0], z)


@pytest.mark.parametrize(("make", "shape"), BIJECTORS.values(), ids=BIJECTORS)
def test_in_single_precision_the_round_trip_is_within_1e_5(make, shape):
    """Both ways, where no slope is so steep that x in single precision would not tell z."""
    torch.set_default_dtype(torch.float32)
    bijector, z = randomised(make(), 0.1), torch.randn(64, *shape)
    with torch.no_grad():
        for layer in bijector.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                for p in layer.parameters():
                    p *= 0.3
        x, _ = bijector.forward(z)
        assert x.dtype == torch.float32
        assert (bijector.inverse(x)[0] - z).abs().max() < 1e-5
        assert (bijector.forward(bijector.inverse(x)[0])[0] - x).abs().max() < 1e-5


def test_log_det_of_forward_is_autodiffs(case):
    bijector, z = case
    _, log_det = bijector.forward(z)
    torch.testing.assert_close(log_det.expand(4), jacobian_log_det(bijector.forward, z))


def test_log_det_of_inverse_is_autodiffs(case):
    bijector, z = case
    x, _ = bijector.forward(z)
    _, log_det = bijector.inverse(x)
    torch.testing.assert_close(log_det.expand(4), jacobian_log_det(bijector.inverse, x))


def test_log_dets_of_the_two_directions_cancel(case):
    bijector, z = case
    x, forward = bijector.forward(z)
    _, inverse = bijector.inverse(x)
    assert forward.abs().min() > 1e-3
    torch.testing.assert_close(inverse, -forward)


def test_logit_keeps_black_and_white_finite():
    z, log_det = Logit(1e-6).inverse(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert z.isfinite().all()
    assert log_det.isfinite().all()


def test_logit_maps_a_known_share_outside_the_unit_interval():
    # x <= 0 exactly where sigmoid(z) <= low.
    border = math.log(0.01 / 0.99)
    z = torch.tensor([border - 1, border, border + 1])
    below, at, above = Logit(0.01).forward(z.view(1, 1, 3))[0].flatten().tolist()
    assert below < 0 < above
    assert at == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_multiscale_fits_both_image_sizes(shape):
    bijector = randomised(MultiScale(shape, 2, [4, 4]), std=0.05)
    x = torch.randn(2, *shape)
    z, _ = bijector.inverse(x)
    assert z.shape == (2, math.prod(shape))
    torch.testing.assert_close(bijector.forward(z)[0], x)


def test_what_leaves_a_scale_has_a_prior_given_what_goes_on():
    """It is what the last coupling changed by the other half."""
    flow = randomised(MultiScale((1, 4, 4), 1, [6, 6]))
    x = torch.randn(3, 1, 4, 4)
    coupling, rotation, norm = flow.levels[0]
    h, _ = norm.inverse(torch.nn.functional.pixel_unshuffle(x, 2))
    h, _ = rotation.inverse(h)
    rest, changed = h.chunk(2, 1)
    s, t = coupling.f.scale_and_shift(coupling.theta(rest))
    assert s.abs().min() > 1e-3
    z, _ = flow.inverse(x)
    torch.testing.assert_close(z[:, :8], ((changed - t) * (-s).exp()).flatten(1))


def test_multiscale_refuses_images_that_it_cannot_squeeze():
    with pytest.raises(ValueError, match="squeezed 3 times"):
        MultiScale((1, 28, 28), 1, [4, 4, 4])


@pytest.mark.parametrize("shape", [(1, 3, 4), (1, 4, 3), (2, 2, 3)])
def test_two_masked_layers_change_every_pixel_by_what_others_are(shape):
    D = math.prod(shape)
    flow = randomised(Flow(StandardGaussian(D), masked_flow(shape, 2, [8], Affine())))
    found = jacobian(lambda z: flow.forward(z[None])[0].flatten(), torch.randn(D))
    assert ((found.abs() > 1e-6).sum(1) > 1).all()


@pytest.mark.parametrize("shape", [(1, 2, 4), (1, 3, 5), (2, 4, 4)])
def test_a_checkerboard_has_no_two_neighbours_of_one_colour(shape):
    field = checkerboard(shape).view(shape)
    assert (field[:, 1:] != field[:, :-1]).all()
    assert (field[:, :, 1:] != field[:, :, :-1]).all()
    assert (field[0] == field[-1]).all()
