import itertools
import math

import pytest
import torch
from torch.distributions import AffineTransform
from torch.func import jacrev
from toys import randomised

from triptych.flows.coupling import Affine, Coupling
from triptych.flows.dequantization import VariationalDequantization
from triptych.flows.flow import (
    Flow,
    Inverse,
    autoregressions,
    autoregressive_flow,
    coupling_flow,
    couplings,
)
from triptych.flows.masked import masked_flow
from triptych.flows.multiscale import ActNorm, Invertible1x1, MultiScale, flow_steps
from triptych.nets.conv import ConvNet, PatchNet
from triptych.nets.mlp import MLP
from triptych.priors.gaussian import StandardGaussian

pytestmark = pytest.mark.usefixtures("float64")


def bent_flow(layers=4, std=0.2):
    return randomised(coupling_flow(StandardGaussian(2), 2, layers, [8]), std)


@torch.no_grad()
def test_a_flow_is_its_base_before_training(g):
    base = StandardGaussian(5)
    flow, z = coupling_flow(base, 5, 8, [8]), torch.randn(3, 5)
    torch.testing.assert_close(flow.log_prob(z), base.log_prob(z))
    torch.testing.assert_close(flow.inverse(z)[0], z)


@pytest.mark.parametrize("net", [ConvNet, PatchNet])
def test_image_couplings_start_as_the_identity(net):
    z = torch.randn(2, 4, 3, 3)
    for layer in flow_steps((4, 3, 3), 3, 8, net_for=net):
        if isinstance(layer, Coupling):
            x, log_det = layer.forward(z)
            torch.testing.assert_close(x, z)
            torch.testing.assert_close(log_det, torch.zeros(2))


@pytest.mark.parametrize("dim", [2, 5, 8])
def test_alternating_masks_touch_every_coordinate(dim):
    flow, z = randomised(coupling_flow(StandardGaussian(dim), dim, 2, [8])), torch.randn(dim)
    x, _ = flow.inverse(z)
    assert (x != z).all()
    first, second = flow.bijectors
    assert sorted([*first.b.tolist(), *second.b.tolist()]) == list(range(dim))


def test_no_pixel_is_left_linear_by_the_image_couplings():
    """A coordinate that no coupling changes has the same Jacobian row everywhere."""
    flow = randomised(MultiScale((1, 4, 4), 2, [6, 6]), 0.5)

    def rows(x):
        return jacrev(lambda x: flow.inverse(x[None])[0][0])(x).flatten(1)

    change = (rows(torch.randn(1, 4, 4)) - rows(torch.randn(1, 4, 4))).norm(dim=1)
    assert change.min() > 1e-3


@pytest.mark.parametrize("mask", [[True] * 4, [False] * 4])
def test_masks_that_change_nothing_or_read_nothing_are_refused(mask):
    with pytest.raises(ValueError, match="both sides"):
        Coupling(torch.tensor(mask), MLP([4, 8]), Affine())


@pytest.mark.parametrize("make", [couplings, autoregressions])
@pytest.mark.parametrize(("dim", "layers"), [(1, 4), (4, 1)])
def test_flows_too_small_to_touch_everything_are_refused(dim, layers, make):
    with pytest.raises(ValueError, match="dim >= 2 and layers >= 2"):
        make(dim, layers, [4])


@pytest.mark.parametrize("shape", [(1, 8, 6), (1, 6, 8)])
def test_images_that_cannot_be_halved_so_often_are_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[1]}x{shape[2]} images cannot be squeezed 2"):
        MultiScale(shape, 1, [4, 4])


def test_the_network_of_a_coupling_sees_only_the_half_that_passes():
    mask = torch.tensor([True, False, True, False, False])
    coupling = randomised(Coupling(mask, MLP([2, 8, 6]), Affine()))
    log_det_grad = jacrev(lambda z: coupling.forward(z)[1])(torch.randn(5))
    assert (log_det_grad[mask] != 0).all()
    assert (log_det_grad[~mask] == 0).all()


def test_a_coupling_cannot_blow_up():
    coupling = Coupling(torch.tensor([True, False]), torch.nn.Linear(1, 2), Affine(cap=2.0))
    with torch.no_grad():
        coupling.net.bias.copy_(torch.tensor([1e6, 0.0]))
    _, log_det = coupling.forward(torch.randn(3, 2))
    torch.testing.assert_close(log_det, torch.full((3,), 2.0))


def test_coupling_equals_zukos():
    zuko = pytest.importorskip("zuko")
    mask = torch.tensor([True, False, True, False, False])
    ours = randomised(Coupling(mask, MLP([2, 8, 6]), Affine()))

    def meta(z_a):
        s, t = ours.f.scale_and_shift(ours.theta(z_a))
        return zuko.transforms.DependentTransform(AffineTransform(t, s.exp()), 1)

    theirs, z = zuko.transforms.CouplingTransform(meta, mask), torch.randn(6, 5)
    x, log_det = ours.forward(z)
    expected, ladj = theirs.call_and_ladj(z)
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(log_det, ladj)


def test_densities_take_any_leading_dimensions():
    flow, z = bent_flow(), torch.randn(3, 4, 2)
    expected = torch.stack([flow.log_prob(row) for row in z])
    torch.testing.assert_close(flow.log_prob(z), expected)


def test_activation_normalisation_starts_from_the_data():
    x = 3 + 2 * torch.randn(6, 3, 4, 4)
    layer = ActNorm(3)
    layer.starting = True
    z, _ = layer.inverse(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3))
    layer.starting = False
    torch.testing.assert_close(layer.inverse(x)[0], z)


def test_a_rotation_starts_with_log_det_zero():
    layer = Invertible1x1(6)
    W = layer.weight()
    torch.testing.assert_close(W @ W.T, torch.eye(6))
    assert layer.log_det_inverse(torch.zeros(1, 6, 2, 2)).item() == pytest.approx(0, abs=1e-9)


def test_every_scale_and_step_has_weights_of_its_own():
    flow = MultiScale((1, 8, 8), 2, [4, 4])
    layers = [layer for level in flow.levels for layer in level]
    assert len(layers) == 2 * 2 * 3
    for a, b in itertools.combinations(layers, 2):
        assert not {id(p) for p in a.parameters()} & {id(p) for p in b.parameters()}


class Learned(Affine, torch.nn.Module):
    """A map with a parameter of its own."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.cap = torch.nn.Parameter(torch.tensor(2.0))


@pytest.mark.parametrize(
    "flow",
    [
        lambda f: coupling_flow(StandardGaussian(2), 2, 3, [4], f),
        lambda f: autoregressive_flow(StandardGaussian(2), 2, 3, [4], f),
        lambda f: torch.nn.ModuleList(masked_flow((1, 2, 2), 3, [4], f)),
        lambda f: MultiScale((1, 4, 4), 3, [4], f),
        lambda f: VariationalDequantization((1, 4, 4), 256, 3, 4, f),
    ],
    ids=["coupling", "autoregressive", "masked", "multiscale", "dequantization"],
)
def test_each_layer_has_a_map_of_its_own(flow):
    """A parameter that two layers share cannot be trained."""
    made = flow(Learned())
    assert len([name for name, _ in made.named_parameters() if name.endswith("cap")]) == 3


def test_a_bijector_that_takes_no_context_can_be_inverted():
    class Twice(torch.nn.Module):
        def forward(self, z):
            return 2 * z, torch.full(z.shape[:-1], z.shape[-1] * math.log(2))

        def inverse(self, x):
            return x / 2, torch.full(x.shape[:-1], -x.shape[-1] * math.log(2))

    flow = Flow(StandardGaussian(2), [Inverse(Twice())])
    x = torch.randn(5, 2)
    expected = StandardGaussian(2).log_prob(2 * x) + 2 * math.log(2)
    torch.testing.assert_close(flow.log_prob(x), expected)
