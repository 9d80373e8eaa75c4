import itertools
import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.distributions import Normal
from toys import SHAPE, images, randomised, tiny_flow, tiny_pixelflow

from triptych.flows.coupling import Affine, Coupling
from triptych.flows.dequantization import VariationalDequantization
from triptych.flows.flow import Flow
from triptych.flows.multiscale import ActNorm, Logit, MultiScale
from triptych.flows.spline import RationalQuadratic
from triptych.maths import bits_per_dim
from triptych.nets.conv import ConvNet, PatchNet
from triptych.nets.mlp import MLP
from triptych.nets.residual import ResidualConvNet
from triptych.pixelflow import PixelFlow
from triptych.priors.gaussian import StandardGaussian
from triptych.study.build import build
from triptych.study.configs import PixelFlowConfig
from triptych.validation import validated


class GaussianCdf(nn.Module):
    """x = Phi(z) of each coordinate, which makes N(0, I) uniform on [0, 1]^D."""

    def forward(self, z):
        x = Normal(0.0, 1.0).cdf(z)
        return x.unflatten(-1, (1, 1, -1)), Normal(0.0, 1.0).log_prob(z).sum(-1)

    def inverse(self, x):
        z = Normal(0.0, 1.0).icdf(x.flatten(1))
        return z, -Normal(0.0, 1.0).log_prob(z).sum(-1)


class Recorder(nn.Module):
    """Stands in for a flow and keeps what it is shown."""

    def __init__(self, samples=None):
        super().__init__()
        self.seen, self.samples = [], samples

    def log_prob(self, y):
        self.seen.append(y)
        return torch.zeros(len(y))

    def inverse(self, y):
        return y.flatten(1), torch.zeros(len(y))

    def sample(self, n, generator=None, temperature=1.0):
        return self.samples


def recording(shape, levels, samples=None):
    model = PixelFlow(Flow(StandardGaussian(1), []), shape, levels)
    model.flow = Recorder(samples)
    return model


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_uniform_density_costs_log2_of_the_levels(levels, g):
    flow = Flow(StandardGaussian(6), [GaussianCdf()])
    model = PixelFlow(flow, (1, 1, 6), levels)
    x = torch.randint(0, levels, (5, 1, 1, 6)).double()
    bpd = bits_per_dim(model.log_weight(x, model.noise(5, g)), model.dims)
    torch.testing.assert_close(bpd, torch.full((5,), math.log2(levels)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("learned", [False, True])
def test_weights_count_every_jacobian(learned):
    model, levels = tiny_flow((1, 2, 4), 5), 5
    if learned:
        model.dequantizer = VariationalDequantization((1, 2, 4), levels, 2, 4)
    randomised(model)
    k, u = torch.randint(0, levels, (3, 1, 2, 4)).double(), torch.rand(3, 1, 2, 4)
    for i in range(3):

        def f(v, k=k[i]):  # From noise to the base: dequantization, logit and all.
            u, _ = model.dequantizer(v[None], k[None])
            return model.flow.inverse((k + u) / levels)[0].flatten()

        log_det = torch.linalg.slogdet(jacobian(f, u[i]).flatten(1)).logabsdet
        expected = Normal(0.0, 1.0).log_prob(f(u[i])).sum() + log_det
        torch.testing.assert_close(model.log_weight(k[i, None], u[i, None])[0], expected)


@torch.no_grad()
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("learned", [False, True])
def test_probabilities_of_all_images_sum_to_one_and_the_bound_to_less(learned, g):
    flow = Flow(StandardGaussian(4), [MultiScale((1, 2, 2), 2, [4]), Logit(1e-6)])
    q = VariationalDequantization((1, 2, 2), 2, 2, 4) if learned else None
    model = randomised(PixelFlow(flow, (1, 2, 2), 2, q), 0.2)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).view(16, 1, 2, 2)
    many = x.repeat(4000, 1, 1, 1)
    log_p = model.log_weight(many, model.noise(len(many), g)).view(4000, 16)
    weights = log_p.exp()
    error = (weights.var(0).sum() / 4000).sqrt().item()
    assert error < 0.03
    assert weights.mean(0).sum().item() == pytest.approx(1, abs=4 * error)
    assert 0 < log_p.mean(0).exp().sum().item() < 1


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantization_fills_the_levels_own_cells_and_never_reaches_beyond(levels):
    model = recording((1, 1, 2), levels)
    top, almost_one = float(levels - 1), 1 - 2.0**-24
    x = torch.tensor([0.0, top]).view(1, 1, 1, 2)
    for u in (0.0, 0.5, almost_one):
        model.log_weight(x, torch.full_like(x, u))
        black, white = model.flow.seen[-1].flatten().tolist()
        assert black == pytest.approx(u / levels)
        assert white == pytest.approx((top + u) / levels)
        assert 0 <= black < white <= 1


def test_offsets_lie_in_the_half_open_unit_interval(g):
    u = tiny_flow().noise(500, g)
    assert u.shape == (500, *SHAPE)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01


def test_digits_have_seventeen_levels(digits):
    config = PixelFlowConfig(scales=1, steps=1, width=4)
    model = build(config, digits.shape, digits.levels)
    assert model.levels == 17
    assert int(digits.train_images.max()) == 16


@pytest.mark.parametrize("dequantization", ["uniform", "variational"])
def test_terms_make_up_the_log_density(dequantization, g):
    model = randomised(tiny_pixelflow(dequantization=dequantization), 0.1)
    x = images(4).float()
    u = model.noise(4, g)
    total = sum(model.terms(x, u).values())
    torch.testing.assert_close(model.log_weight(x, u), total)
    torch.testing.assert_close(model.loss(x, u), -total)


@torch.no_grad()
def test_samples_lie_on_the_grid_of_levels(g):
    model = randomised(tiny_flow(), 0.2)
    levels = model.sample(50, g) * (model.levels - 1)
    torch.testing.assert_close(levels, levels.round(), atol=1e-5, rtol=0)
    assert levels.min() >= 0
    assert levels.max() <= model.levels - 1


def test_a_sample_takes_the_level_whose_cell_it_falls_in(g):
    y = torch.tensor([0.0, 0.24, 0.26, 0.99, -0.3, 1.7]).view(1, 1, 1, 6)
    model = recording((1, 1, 6), 4, y)
    torch.testing.assert_close(3 * model.sample(1, g).flatten(), torch.tensor([0, 0, 1, 3, 0, 3.0]))


def test_what_had_to_be_moved_into_range_is_counted(g):
    y = torch.tensor([0.0, 0.5, 1.0, -0.3, 1.7, 2.0, 0.1, 0.2]).view(1, 1, 2, 4)
    assert recording((1, 2, 4), 4, y).share_outside(1, g).item() == pytest.approx(3 / 8)


def test_prepare_normalises_what_each_layer_passes_on(g):
    model, x = tiny_flow(), images(40).float()
    noise = model.noise(40, g)
    model.prepare(x, noise)
    outputs = []
    layers = [m for m in model.modules() if isinstance(m, ActNorm)]
    for layer in layers:
        assert not layer.starting
        inverse = layer.inverse
        layer.inverse = lambda x, f=inverse: outputs.append(f(x)) or outputs[-1]
    model.log_weight(x, noise)
    assert len(outputs) == len(layers) > 0
    for z, _ in outputs:
        std, mean = torch.std_mean(z, (0, 2, 3))
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "f", "net"),
    [
        ({}, Affine, ConvNet),
        ({"coupling": "spline", "bins": 3}, RationalQuadratic, ConvNet),
        ({"blocks": 1}, Affine, ResidualConvNet),
        ({"network": "patch"}, Affine, PatchNet),
        ({"network": "mlp"}, Affine, MLP),
    ],
)
def test_settings_reach_every_coupling(settings, f, net):
    model = tiny_pixelflow(dequantization="variational", dequantization_steps=3, **settings)
    couplings = [m for m in model.flow.modules() if isinstance(m, Coupling)]
    assert {type(c.f) for c in couplings} == {f}
    assert {type(c.net) for c in couplings} == {net}
    assert len(couplings) == (2 if net is MLP else 4)
    learned = model.dequantizer.couplings
    assert {type(c.f) for c in learned} == {f}
    assert {type(c.net) for c in learned} == {ConvNet if net is MLP else net}
    assert len(learned) == 3
    if f is RationalQuadratic:
        assert {c.f.bins for c in [*couplings, *learned]} == {3}


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [{}, {"coupling": "spline"}, {"blocks": 1}, {"network": "patch"}, {"network": "mlp"}],
    ids=str,
)
def test_the_round_trip_is_exact_to_single_precision(settings, g):
    """In the unit of y = (x + u) / L, which is [0, 1]."""
    model = randomised(tiny_pixelflow(**settings), 0.1)
    y, _ = model.dequantize(images(40).float(), model.noise(40, g))
    z, _ = model.flow.inverse(y)
    for bijector in model.flow.bijectors:
        z, _ = bijector(z)
    assert (z - y).abs().max() < 1e-5


def test_runs_from_before_there_was_a_choice_can_still_be_read():
    config = validated(PixelFlowConfig, {"kind": "pixelflow", "scales": 1, "steps": 1}, "config")
    assert {k: tuple(v.shape) for k, v in build(config, SHAPE, 17).state_dict().items()} == {
        "flow.bijectors.0.levels.0.0.net.0.weight": (96, 2, 3, 3),
        "flow.bijectors.0.levels.0.0.net.0.bias": (96,),
        "flow.bijectors.0.levels.0.0.net.2.weight": (96, 96, 1, 1),
        "flow.bijectors.0.levels.0.0.net.2.bias": (96,),
        "flow.bijectors.0.levels.0.0.net.4.weight": (4, 96, 3, 3),
        "flow.bijectors.0.levels.0.0.net.4.bias": (4,),
        "flow.bijectors.0.levels.0.1.P": (4, 4),
        "flow.bijectors.0.levels.0.1.sign": (4,),
        "flow.bijectors.0.levels.0.1.L": (4, 4),
        "flow.bijectors.0.levels.0.1.U": (4, 4),
        "flow.bijectors.0.levels.0.1.log_s": (4,),
        "flow.bijectors.0.levels.0.2.log_scale": (4, 1, 1),
        "flow.bijectors.0.levels.0.2.shift": (4, 1, 1),
    }
