import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli as TorchBernoulli

from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP

SHAPE = (1, 2, 3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch", [(4,), (7, 4)])
def test_bernoulli_is_torchs_summed_over_pixels(batch):
    likelihood = Bernoulli(MLP([2, 5, 6]), SHAPE)
    x, z = torch.rand(4, *SHAPE).round(), torch.randn(*batch, 2)
    per_pixel = TorchBernoulli(logits=likelihood.logits(z)).log_prob(x.flatten(1))
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
