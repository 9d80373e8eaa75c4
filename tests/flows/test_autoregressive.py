import pytest
import torch
from torch.distributions import AffineTransform
from torch.func import jacrev, vmap
from torch.nn.functional import silu
from toys import randomised

from triptych.flows.autoregressive import MADE, Autoregressive, MaskedLinear
from triptych.flows.coupling import Affine
from triptych.flows.flow import autoregressions, autoregressive_flow
from triptych.flows.spline import RationalQuadratic
from triptych.priors.gaussian import StandardGaussian

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("dim", "hidden"), [(1, [3]), (2, [3]), (5, [8, 7]), (4, [2]), (9, [3, 4]), (3, [])]
)
def test_outputs_of_made_see_what_comes_before_and_nothing_else(dim, hidden):
    net = randomised(MADE(dim, hidden, 2))
    jacobian = jacrev(net)(torch.randn(dim)).view(2, dim, dim)
    assert (jacobian.triu() == 0).all()
    below = torch.ones(dim, dim).tril(-1).bool()
    if not hidden or min(hidden) >= dim - 1:
        assert (jacobian[:, below] != 0).all()
    # However narrow the network, its last output sees all that it may.
    assert (jacobian[:, -1, :-1] != 0).all()


@pytest.mark.parametrize(("dim", "hidden"), [(1, [3]), (2, [3]), (5, [8, 7]), (9, [3, 4])])
def test_outputs_of_made_all_see_the_context(dim, hidden):
    net = randomised(MADE(dim, hidden, 2, context=3))
    jacobian = jacrev(net)(torch.randn(dim + 3)).view(2, dim, dim + 3)
    assert (jacobian[:, :, dim:] != 0).all()
    assert (jacobian[:, :, :dim].triu() == 0).all()
    elsewhere = jacrev(net)(torch.randn(dim + 3)).view(2, dim, dim + 3)
    assert (elsewhere[:, :, dim:] != jacobian[:, :, dim:]).all()  # by way of the hidden units
    if min(hidden) >= dim:
        assert (jacobian[:, torch.ones(dim, dim + 3).tril(-1).bool()] != 0).all()


@pytest.mark.parametrize("f", [Affine(), RationalQuadratic(4)], ids=["affine", "spline"])
def test_an_autoregressive_layer_starts_as_the_identity(f):
    z = torch.randn(3, 4)
    x, log_det = Autoregressive(4, [8], f).forward(z)
    torch.testing.assert_close(x, z)
    torch.testing.assert_close(log_det, torch.zeros(3))


def test_a_layer_is_zukos():
    zuko = pytest.importorskip("zuko")
    ours, x = randomised(Autoregressive(4, [9], Affine())), torch.randn(6, 4)

    def meta(x):
        s, t = ours.f.scale_and_shift(ours.theta(x))
        return zuko.transforms.DependentTransform(AffineTransform(-t * (-s).exp(), (-s).exp()), 1)

    theirs = zuko.transforms.AutoregressiveTransform(meta, passes=4)
    z, log_det = ours.inverse(x)
    expected, ladj = theirs.call_and_ladj(x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_det, ladj)
    torch.testing.assert_close(ours.forward(z)[0], theirs.inv(z))


@torch.no_grad()
def test_the_masked_network_is_nflows_with_the_same_weights():
    """Theirs has the degrees of hidden units in another order, and a coordinate's outputs side by
    side."""
    made = pytest.importorskip("nflows.transforms.made")
    ours, x = randomised(MADE(4, [9, 9], 2), 0.5), torch.randn(6, 4)
    theirs = made.MADE(4, 9, None, 1, 2, use_residual_blocks=False, activation=silu)
    first, second, last = (layer for layer in ours if isinstance(layer, MaskedLinear))
    place = theirs.initial_layer.degrees.argsort(stable=True)
    output = torch.arange(8).view(4, 2).T.flatten()
    theirs.initial_layer.weight[place] = first.weight
    theirs.initial_layer.bias[place] = first.bias
    theirs.blocks[0].linear.weight[place[:, None], place] = second.weight
    theirs.blocks[0].linear.bias[place] = second.bias
    theirs.final_layer.weight[output[:, None], place] = last.weight
    theirs.final_layer.bias[output] = last.bias
    torch.testing.assert_close(ours(x), theirs(x)[:, output])


def test_every_coordinate_of_a_flow_depends_on_every_other():
    flow = randomised(autoregressive_flow(StandardGaussian(4), 4, 2, [8]), 0.5)
    assert (jacrev(lambda x: flow.inverse(x)[0])(torch.randn(4)) != 0).all()


def test_layers_go_through_the_coordinates_in_turn_forwards_and_backwards():
    for i, layer in enumerate(autoregressions(4, 4, [8])):
        randomised(layer)
        jacobian = jacrev(lambda x, of=layer: of.inverse(x)[0])(torch.randn(4))
        assert (jacobian.tril() if i % 2 else jacobian.triu()).equal(jacobian.diag().diag())


def test_log_prob_under_vmap_is_the_loop():
    flow, z = randomised(autoregressive_flow(StandardGaussian(3), 3, 2, [8])), torch.randn(5, 3)
    torch.testing.assert_close(vmap(flow.log_prob)(z), flow.log_prob(z))
