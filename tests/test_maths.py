import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from triptych.maths import (
    RunningLogMeanExp,
    bits_per_dim,
    log_mean_exp,
    mixture_log_prob,
    normal_log_prob,
)


def mixture(K=5, D=3):
    log_w = torch.randn(K).log_softmax(-1).requires_grad_()
    return log_w, torch.randn(K, D, requires_grad=True), torch.randn(K, D, requires_grad=True)


def peer(log_w, mu, log_sigma):
    components = Independent(Normal(mu, log_sigma.exp()), 1)
    return MixtureSameFamily(Categorical(logits=log_w), components)


@pytest.mark.usefixtures("float64")
def test_normal_log_prob_equals_torch():
    z, mu, log_sigma = torch.randn(3, 4, 2, 5)[:, 0].unbind(0)
    expected = Normal(mu, log_sigma.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(normal_log_prob(z, mu, log_sigma), expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch", [(7,), (4, 7), ()])
def test_mixture_density_equals_torchs_mixture_same_family(batch):
    parts, z = mixture(), 2 * torch.randn(*batch, 3)
    torch.testing.assert_close(mixture_log_prob(z, *parts), peer(*parts).log_prob(z))


@pytest.mark.usefixtures("float64")
def test_mixture_gradients_equal_torchs():
    parts, z = mixture(), torch.randn(7, 3, requires_grad=True)
    ours = torch.autograd.grad(mixture_log_prob(z, *parts).sum(), (z, *parts))
    theirs = torch.autograd.grad(peer(*parts).log_prob(z).sum(), (z, *parts))
    # A weight's gradient is defined up to what keeps the weights normalised.
    w = parts[0].detach().exp()
    projected = [g - w * g.sum() for g in (ours[1], theirs[1])]
    torch.testing.assert_close(*projected)
    for a, b in zip((ours[0], *ours[2:]), (theirs[0], *theirs[2:]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk", [1, 7, 13, 100, 1000])
def test_running_log_mean_exp_does_not_depend_on_the_chunks(chunk):
    # Weights as small as a likelihood's: exp of any of them is zero.
    log_w = 10 * torch.randn(100, 4) - 5000
    running = RunningLogMeanExp()
    for part in log_w.split(chunk):
        running.update(part)
    assert running.count == 100
    torch.testing.assert_close(running.value(), log_w.logsumexp(0) - math.log(100))


def test_log_mean_exp_of_equal_weights_is_that_weight():
    torch.testing.assert_close(log_mean_exp(torch.full((50, 2), -3.0)), torch.full((2,), -3.0))


def test_log_mean_exp_counts_along_its_own_dimension():
    log_w = torch.randn(3, 8)
    expected = log_w.exp().mean(1).log()
    torch.testing.assert_close(log_mean_exp(log_w, dim=1), expected)


def test_running_log_mean_exp_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        RunningLogMeanExp().value()


def test_a_uniform_byte_costs_eight_bits_and_better_models_cost_less():
    D = 10
    uniform = torch.tensor(-D * math.log(256))
    assert bits_per_dim(uniform, D).item() == pytest.approx(8)
    assert bits_per_dim(uniform + 1, D) < bits_per_dim(uniform, D)
