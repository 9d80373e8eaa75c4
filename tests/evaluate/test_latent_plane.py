import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal
from toys import prior_named, randomised

from triptych.evaluate.latent_plane import latent_plane
from triptych.priors.gaussian import StandardGaussian


@pytest.mark.parametrize("name", ["gaussian", "mixture", "flow"])
def test_in_two_dimensions_the_picture_shows_the_priors_own_density(name, g):
    prior = randomised(prior_named(name))
    plane = latent_plane(prior, torch.randn(200, 2), g, points=12)
    x, y = np.meshgrid(plane.grid_x, plane.grid_y)
    grid = torch.tensor(np.stack([x, y], -1))
    expected = prior.log_prob(grid).exp().detach().numpy()
    np.testing.assert_allclose(plane.density, expected, rtol=1e-4)
    assert plane.components == "latent"


def test_in_more_dimensions_the_density_is_the_projected_one_not_a_slice(g):
    """The slice of N(0, I_6) through its plane is (2 pi)^-2 of the projection, at best."""
    stretch = torch.tensor([3.0, 0.1, 2.0, 0.1, 0.1, 0.1])
    z = stretch * torch.randn(500, 6) + torch.tensor([0.5, 4.0, 0.0, 0.0, 0.0, 0.0])
    plane = latent_plane(StandardGaussian(6), z, g, points=30)
    center = z.mean(0)
    _, _, v = torch.linalg.svd(z - center, full_matrices=False)
    marginal = MultivariateNormal(-center @ v[:2].T, torch.eye(2))
    x, y = np.meshgrid(plane.grid_x, plane.grid_y)
    expected = marginal.log_prob(torch.tensor(np.stack([x, y], -1))).exp().numpy()
    assert np.abs(plane.density - expected).max() < 0.15 * expected.max()
    assert plane.components == "pca"
    np.testing.assert_allclose(plane.posterior, ((z - center) @ v[:2].T).numpy(), atol=1e-5)


def test_components_explain_their_share_of_the_variance(g):
    z = torch.randn(2000, 3) * torch.tensor([3.0, 2.0, 1.0])
    plane = latent_plane(StandardGaussian(3), z, g, points=5)
    np.testing.assert_allclose(plane.explained, [9 / 14, 4 / 14], atol=0.04)


@pytest.mark.parametrize("far", [0.0, 300.0])
def test_a_few_far_draws_of_a_prior_do_not_hide_the_rest(g, far):
    """Light tails: all but the outermost thousandth; else no more than the middle and its third."""

    class Tailed(StandardGaussian):
        def sample(self, n, generator=None):
            z = super().sample(n, generator)
            z[: n // 200] += far
            return z

    plane = latent_plane(Tailed(5), torch.randn(2000, 5), g, points=5)
    for axis in (plane.grid_x, plane.grid_y):
        assert 3.0 < axis[-1] < 5.5
        assert -5.5 < axis[0] < -3.0


@pytest.mark.parametrize("drawn", [1, 2, 3])
def test_fewer_than_three_draws_of_a_chain_have_no_density(g, drawn):
    plane = latent_plane(
        StandardGaussian(5), torch.randn(40, 5), g, points=5, chain=torch.randn(drawn, 5)
    )
    assert (plane.chain is not None) == (drawn == 3)
