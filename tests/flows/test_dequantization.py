"""Offsets in the unit cube, their log_det against autodiff's, and what they may depend on."""

from functools import partial

import pytest
import torch
from torch.autograd.functional import jacobian
from toys import randomised

from triptych.flows.coupling import Affine
from triptych.flows.dequantization import UniformDequantization, VariationalDequantization
from triptych.flows.spline import RationalQuadratic
from triptych.nets.conv import ConvNet, PatchNet
from triptych.nets.residual import ResidualConvNet

LEVELS = 5
KINDS = {
    "affine": ((1, 2, 4), Affine(), ConvNet),
    "in colour": ((3, 2, 2), Affine(), ConvNet),
    "splines": ((1, 4, 2), RationalQuadratic(3), ConvNet),
    "residual": ((1, 4, 4), Affine(), partial(ResidualConvNet, blocks=1)),
    "patches": ((1, 4, 6), Affine(), PatchNet),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def case(request):
    shape, f, net = request.param
    flow = VariationalDequantization(shape, LEVELS, 3, 8, f, net)
    return flow, torch.rand(4, *shape), torch.randint(0, LEVELS, (4, *shape))


@pytest.mark.usefixtures("float64")
def test_log_det_is_autodiffs(case):
    flow, v, x = case
    randomised(flow)
    x = x.double()
    u, log_det = flow(v, x)
    assert (u - v).abs().max() > 0.1
    for i in range(4):

        def f(v, i=i):
            return flow(v[None], x[i, None])[0].flatten()

        expected = torch.linalg.slogdet(jacobian(f, v[i]).flatten(1)).logabsdet
        torch.testing.assert_close(log_det[i], expected)


@torch.no_grad()
def test_it_starts_as_uniform_dequantization(case):
    flow, v, x = case
    for found, expected in zip(
        flow(v, x.float()), UniformDequantization()(v, x.float()), strict=True
    ):
        torch.testing.assert_close(found, expected.expand_as(found), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_offsets_stay_in_the_unit_interval_at_its_ends_too(case):
    flow, v, x = case
    randomised(flow)
    for edge in (v, torch.zeros_like(v), torch.full_like(v, 1 - 2.0**-24)):
        u, log_det = flow(edge, x.float())
        assert log_det.isfinite().all()
        assert u.min() >= 0
        assert u.max() <= 1


@torch.no_grad()
def test_offsets_depend_on_the_image_and_on_every_others_noise(case):
    flow, v, x = case
    randomised(flow)
    seen = jacobian(lambda v: flow(v[None], x[:1].float())[0].flatten(), v[0]).flatten(1)
    assert ((seen.abs() > 1e-7).sum(1) > 1).all()
    other = flow(v, (LEVELS - 1 - x).float())[0]
    assert (flow(v, x.float())[0] - other).abs().max() > 1e-3


def test_images_of_odd_size_are_refused():
    with pytest.raises(ValueError, match="3x4 images cannot be cut"):
        VariationalDequantization((1, 3, 4), 2, 2, 4)
