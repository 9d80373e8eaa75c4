import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli
from torch.distributions import Normal

from triptych.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Gaussian,
    log_constant,
)
from triptych.nets.mlp import MLP

SHAPE = (1, 2, 3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch", [(4,), (7, 4)])
def test_bernoulli_is_torchs_summed_over_pixels(batch):
    likelihood = Bernoulli(MLP([2, 5, 6]), SHAPE)
    x, z = torch.rand(4, *SHAPE).round(), torch.randn(*batch, 2)
    per_pixel = TorchBernoulli(logits=likelihood.net(z)).log_prob(x.flatten(1))
    torch.testing.assert_close(likelihood.log_prob(x, z), per_pixel.sum(-1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("logit", "white", "expected"),
    [(200.0, 1.0, 0.0), (200.0, 0.0, -200.0), (-200.0, 1.0, -200.0), (-200.0, 0.0, 0.0)],
)
def test_nothing_is_clamped(logit, white, expected):
    likelihood = Bernoulli(nn.Identity(), (1, 1, 2))
    z, x = torch.full((1, 2), logit), torch.full((1, 1, 1, 2), white)
    assert likelihood.log_prob(x, z).item() == pytest.approx(2 * expected, abs=1e-12)


@torch.no_grad()
def test_samples_are_black_or_white_and_have_their_mean(g):
    likelihood = Bernoulli(nn.Identity(), (1, 1, 3))
    logits = torch.tensor([-1.0, 0.0, 2.0])
    x = likelihood.sample(logits.expand(20_000, 3), g)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(likelihood.mean(logits).flatten(), logits.sigmoid())
    error = (x.mean(0).flatten() - logits.sigmoid()).abs()
    assert error.max() < 4.5 * 0.5 / 20_000**0.5


LEVELS = 17


def grey_likelihood(name, net, shape=SHAPE):
    made = {
        "continuous": lambda: ContinuousBernoulli(net, shape, LEVELS),
        "gaussian": lambda: Gaussian(net, shape, LEVELS, 0.3),
        "logistic": lambda: DiscretizedLogisticMixture(net, shape, LEVELS, 3),
    }
    return made[name]()


def outputs(name, pixels):
    return 9 * pixels if name == "logistic" else pixels


GREY = ("continuous", "gaussian", "logistic")


@pytest.mark.parametrize("name", GREY)
def test_grey_likelihoods_take_samples_in_front(name):
    likelihood = grey_likelihood(name, MLP([2, 5, outputs(name, 6)]))
    x, z = torch.randint(0, LEVELS, (4, *SHAPE)).float(), torch.randn(7, 4, 2)
    each = torch.stack([likelihood.log_prob(x, row) for row in z])
    torch.testing.assert_close(likelihood.log_prob(x, z), each)
    assert likelihood.mean(z).shape == likelihood.sample(z).shape == (7, 4, *SHAPE)


@torch.no_grad()
@pytest.mark.parametrize("name", GREY)
def test_grey_samples_have_the_mean_and_stay_in_range(name, g):
    torch.manual_seed(3)
    likelihood = grey_likelihood(name, nn.Identity())
    z = torch.randn(outputs(name, 6))
    if name == "gaussian":
        z = z.sigmoid() * 0.1 + 0.45
        likelihood.log_sigma.fill_(-3.0)  # nothing of it falls outside
    x = likelihood.sample(z.expand(20_000, -1), g)
    assert 1 < x.max() <= LEVELS - 1  # where log_prob takes it
    y = likelihood.grey(x)
    assert y.min() >= 0
    assert y.max() <= 1
    error = (y.mean(0) - likelihood.mean(z)) / (y.std(0) / 20_000**0.5)
    assert error.abs().max() < 4.5


@torch.no_grad()
@pytest.mark.parametrize("name", GREY)
def test_grey_samples_are_of_the_probabilities(name, g):
    """Of one pixel, by Kolmogorov and Smirnov's distance."""
    likelihood, n = grey_likelihood(name, nn.Identity(), (1, 1, 1)), 20_000
    z = {
        "continuous": torch.tensor([-1.5]),
        "gaussian": torch.tensor([0.4]),
        "logistic": torch.tensor([0.3, -0.4, 0.1, -0.6, 0.0, 0.8, -2.0, -3.0, -1.5]),
    }[name]
    if name == "gaussian":
        likelihood.log_sigma.fill_(-2.5)
    levels = torch.linspace(0, LEVELS - 1, LEVELS if name == "logistic" else 16_001)
    p = likelihood.log_prob(levels.view(-1, 1, 1, 1), z.expand(len(levels), -1)).exp()
    expected = (p / p.sum()).cumsum(0)
    x = likelihood.sample(z.expand(n, -1), g).flatten()
    found = torch.searchsorted(x.sort().values, levels, right=True) / n
    assert (found - expected).abs().max() < 2 / n**0.5  # beyond by chance once in 1,500


@pytest.mark.usefixtures("float64")
def test_continuous_bernoulli_is_torchs():
    likelihood = ContinuousBernoulli(nn.Identity(), SHAPE, LEVELS)
    logits = torch.tensor([-6.0, -1.0, -0.3, 0.4, 2.0, 9.0])
    x = torch.randint(0, LEVELS, (5, *SHAPE)).double()
    theirs = TorchContinuousBernoulli(logits=logits)
    expected = theirs.log_prob(x.flatten(1) / (LEVELS - 1)).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(x, logits.expand(5, 6)), expected)
    torch.testing.assert_close(likelihood.mean(logits).flatten(), theirs.mean)


@pytest.mark.usefixtures("float64")
def test_continuous_bernoulli_is_smooth_and_normalised_around_zero():
    likelihood = ContinuousBernoulli(nn.Identity(), (1, 1, 1), 1001)
    x = torch.arange(1001.0).view(-1, 1, 1, 1)
    for logit in (-2.0, -1e-3, -1e-9, 0.0, 1e-6, 9.99e-4, 1.001e-3, 5.0):
        z = torch.full((1001, 1), logit, requires_grad=True)
        log_p = likelihood.log_prob(x, z)
        assert torch.trapezoid(log_p.exp(), dx=1e-3).item() == pytest.approx(1, abs=1e-5)
        (slope,) = torch.autograd.grad(log_p.sum(), z)
        # d/dl log p = y - E[y]
        expected = x.flatten() / 1000 - likelihood.mean(z).flatten()
        torch.testing.assert_close(slope.flatten(), expected, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("float64")
def test_gaussian_is_torchs_and_its_sigma_is_learned_or_not():
    x, mu = torch.randint(0, LEVELS, (5, *SHAPE)).double(), torch.randn(5, 6)
    likelihood = Gaussian(nn.Identity(), SHAPE, LEVELS, 0.3)
    expected = Normal(mu, 0.3).log_prob(x.flatten(1) / (LEVELS - 1)).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(x, mu), expected)
    assert list(likelihood.parameters()) == []
    assert "log_sigma" in likelihood.state_dict()
    learned = Gaussian(nn.Identity(), SHAPE, LEVELS)
    assert [n for n, _ in learned.named_parameters()] == ["log_sigma"]


@pytest.mark.usefixtures("float64")
def test_logistic_probabilities_of_all_levels_add_up_to_one():
    likelihood = DiscretizedLogisticMixture(nn.Identity(), (1, 1, 1), LEVELS, 3)
    x = torch.arange(float(LEVELS)).view(-1, 1, 1, 1)
    for scale in (0.3, 3.0, 30.0):
        z = scale * torch.randn(9)
        log_p = likelihood.log_prob(x, z.expand(LEVELS, 9))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
        expected = (log_p.exp() * torch.arange(float(LEVELS))).sum() / (LEVELS - 1)
        torch.testing.assert_close(likelihood.mean(z).sum(), expected)


@torch.no_grad()
@pytest.mark.parametrize("levels", [2, LEVELS, 256])
def test_the_mean_of_white_logistic_pixels_is_not_above_white(levels):
    """Weights in single precision may add up to a little more than one."""
    torch.manual_seed(0)
    likelihood = DiscretizedLogisticMixture(nn.Identity(), (1, 8, 8), levels, 5)
    parts = torch.randn(100, 3, 5, 64)
    parts[:, 1], parts[:, 2] = 9.0, -6.0
    assert likelihood.mean(parts.flatten(1)).max() == 1


@pytest.mark.usefixtures("float64")
def test_logistic_probabilities_are_differences_of_sigmoids():
    likelihood = DiscretizedLogisticMixture(nn.Identity(), (1, 1, 1), LEVELS, 2)
    z = torch.tensor([0.3, -0.4, 0.1, -0.6, -1.0, -2.0])
    w, mu, s = z[:2].softmax(0), z[2:4], z[4:].exp()
    y, h = 2 * 5 / 16 - 1, 1 / 16
    expected = (w * (((y + h - mu) / s).sigmoid() - ((y - h - mu) / s).sigmoid())).sum().log()
    x = torch.full((1, 1, 1, 1), 5.0)
    torch.testing.assert_close(likelihood.log_prob(x, z[None])[0], expected)


@pytest.mark.parametrize("k", [0.0, 8.0, 16.0])
def test_far_tails_of_the_logistic_keep_value_and_gradient(k):
    likelihood = DiscretizedLogisticMixture(nn.Identity(), (1, 1, 1), LEVELS, 1)
    z = torch.tensor([[0.0, 40.0, -3.0]], requires_grad=True)
    log_p = likelihood.log_prob(torch.full((1, 1, 1, 1), k), z)
    (slope,) = torch.autograd.grad(log_p.sum(), z)
    assert log_p.isfinite().all()
    assert slope.isfinite().all()
    assert (log_p < -100) == (k < 16)


def test_a_huge_scale_of_one_logistic_does_not_spoil_the_others():
    likelihood = DiscretizedLogisticMixture(nn.Identity(), (1, 1, 1), LEVELS, 2)
    z = torch.tensor([[0.0, 0.0, 0.0, 0.0, 100.0, -1.0]], requires_grad=True)
    log_p = likelihood.log_prob(torch.full((1, 1, 1, 1), 5.0), z)
    (slope,) = torch.autograd.grad(log_p.sum(), z)
    assert log_p.isfinite().all()
    assert slope.isfinite().all()


def test_gradients_of_the_continuous_bernoulli_are_exact_in_single_precision():
    """Where its constant's two logarithms nearly cancel, and where exp(-l) overflows."""
    logits = torch.cat(
        [torch.linspace(-0.3, 0.3, 601), torch.tensor([-300.0, -100.0, 100.0, 300.0])]
    )

    def slopes(at):
        at = at.clone().requires_grad_()
        model = ContinuousBernoulli(nn.Identity(), (1, 1, 1), 2)
        found = [log_constant(at), model.mean(at[:, None]).flatten()]
        return [torch.autograd.grad(f.sum(), at)[0].double() for f in found]

    for found, exact in zip(slopes(logits), slopes(logits.double()), strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, exact, rtol=0, atol=5e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_a_gaussian_has_a_width(sigma):
    with pytest.raises(ValueError, match="sigma must be above 0, not"):
        Gaussian(nn.Identity(), SHAPE, LEVELS, sigma)
