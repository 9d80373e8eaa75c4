import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.func import jacrev, vmap
from toys import POSTERIORS, SHAPE, posterior_named, randomised

from triptych.maths import normal_log_prob
from triptych.protocols import Posterior

pytestmark = pytest.mark.usefixtures("float64")


def bent(name, dim=4):
    return randomised(posterior_named(name, dim), 0.3)


@pytest.mark.parametrize("name", POSTERIORS)
def test_log_density_of_a_draw_is_that_of_log_prob(name):
    posterior, eps = bent(name), torch.randn(3, 5, 4)
    assert isinstance(posterior, Posterior)
    h = posterior.encode(torch.rand(5, *SHAPE))
    z, log_qz = posterior.rsample(h, eps)
    torch.testing.assert_close(posterior.log_prob(z, h), log_qz)
    torch.testing.assert_close(posterior.log_prob(z[1], h), log_qz[1])


@pytest.mark.parametrize("name", ["gaussian", "full"])
def test_one_dimension_is_enough(name):
    posterior, eps = bent(name, 1), torch.randn(3, 5, 1)
    h = posterior.encode(torch.rand(5, *SHAPE))
    z, log_qz = posterior.rsample(h, eps)
    expected = torch.distributions.Normal(h.mu, h.log_sigma.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(log_qz, expected)


@pytest.mark.parametrize("name", POSTERIORS)
def test_log_density_of_a_draw_is_the_change_of_variables(name):
    posterior, eps = bent(name), torch.randn(6, 4)
    h = posterior.encode(torch.rand(1, *SHAPE))
    J = vmap(jacrev(lambda e: posterior.rsample(h, e[None])[0][0]))(eps)
    expected = normal_log_prob(eps) - torch.linalg.slogdet(J).logabsdet
    torch.testing.assert_close(posterior.rsample(h, eps)[1], expected)


@pytest.mark.parametrize("name", POSTERIORS)
def test_each_image_has_its_own_posterior(name):
    """The draw of an image does not see the other images, and every image's differs."""
    posterior, x = bent(name), torch.rand(4, *SHAPE)
    eps = torch.randn(1, 4).expand(4, -1)
    z, log_qz = posterior.rsample(posterior.encode(x), eps)
    for i in range(4):
        alone = posterior.rsample(posterior.encode(x[i : i + 1]), eps[:1])
        torch.testing.assert_close(z[i : i + 1], alone[0])
        torch.testing.assert_close(log_qz[i : i + 1], alone[1])
    assert torch.pdist(z).min() > 1e-3


def test_full_gaussian_is_torchs():
    posterior, x = bent("full"), torch.rand(5, *SHAPE)
    h = posterior.encode(x)
    L = torch.tril(h.below, -1) + torch.diag_embed(h.log_sigma.exp())
    assert h.below.triu().abs().max() == 0
    row, column = torch.tril_indices(4, 4, -1)
    torch.testing.assert_close(h.below[:, row, column], posterior.net(x)[:, 8:])
    assert len(posterior.net(x)[0, 8:].unique()) == 6
    q = MultivariateNormal(h.mu, scale_tril=L)
    z = torch.randn(3, 5, 4)
    torch.testing.assert_close(posterior.log_prob(z, h), q.log_prob(z))
    drawn, _ = posterior.rsample(h, torch.randn(40_000, 5, 4))
    torch.testing.assert_close(drawn.mean(0), h.mu, atol=0.1, rtol=0)
    for i in range(5):
        torch.testing.assert_close(drawn[:, i].T.cov(), q.covariance_matrix[i], atol=0.3, rtol=0.1)


@pytest.mark.parametrize("name", ["coupling", "iaf"])
def test_the_layers_of_a_flow_posterior_read_the_image(name):
    """With the Gaussian it starts from held fixed, another context gives another density."""
    posterior = bent(name)
    h = posterior.encode(torch.rand(1, *SHAPE))
    other = h._replace(context=h.context + 1)
    eps = torch.randn(1, 4)
    z, log_qz = posterior.rsample(h, eps)
    moved, log_moved = posterior.rsample(other, eps)
    assert (z - moved).abs().max() > 1e-3
    assert (log_qz - log_moved).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["coupling", "iaf"])
def test_a_flow_posterior_starts_as_its_gaussian(name):
    posterior, eps = posterior_named(name, 4), torch.randn(3, 4)
    h = posterior.encode(torch.rand(3, *SHAPE))
    z, log_qz = posterior.rsample(h, eps)
    torch.testing.assert_close(z, h.base.mu + h.base.log_sigma.exp() * eps)
    torch.testing.assert_close(log_qz, normal_log_prob(z, *h.base))


@pytest.mark.parametrize("name", ["gaussian", "two levels"])
def test_no_image_is_so_far_from_others_that_its_density_is_infinite(name):
    posterior = randomised(posterior_named(name, 4), 100.0).float()
    h = posterior.encode(torch.rand(5, *SHAPE).float())
    z, log_qz = posterior.rsample(h, torch.randn(5, 4).float())
    for found in (z, log_qz, posterior.log_prob(z.flip(0), h)):
        assert found.isfinite().all()
