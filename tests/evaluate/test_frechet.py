import numpy as np
import pytest
import scipy.linalg
import torch

from triptych.evaluate.frechet import Moments, frechet_distance, moments


def gaussian(mu, sigma):
    return Moments(torch.tensor(mu).double(), torch.tensor(sigma).double(), 100)


def random_covariance(D, rank=None):
    a = torch.randn(D, rank or D, dtype=torch.float64)
    return a @ a.T


def by_sqrtm(a, b):
    root = scipy.linalg.sqrtm((a.sigma @ b.sigma).numpy()).real
    gap = (a.mu - b.mu).square().sum().item()
    return gap + float(np.trace(a.sigma.numpy() + b.sigma.numpy() - 2 * root))


def test_known_gaussians_with_axes_in_common():
    a = gaussian([0.0, 1.0], [[4.0, 0.0], [0.0, 9.0]])
    b = gaussian([3.0, 1.0], [[1.0, 0.0], [0.0, 25.0]])
    # |mu|^2 + (2 - 1)^2 + (3 - 5)^2
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 4)


def test_covariances_that_do_not_commute_agree_with_sqrtm():
    a = Moments(torch.randn(5).double(), random_covariance(5), 10)
    b = Moments(torch.randn(5).double(), random_covariance(5), 10)
    assert not torch.allclose(a.sigma @ b.sigma, b.sigma @ a.sigma)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_a_distance_to_oneself_is_zero():
    a = moments(torch.randn(50, 8))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_singular_covariances_give_a_real_number():
    """Fewer images than features, where a matrix root turns complex."""
    f = torch.randn(6, 20, dtype=torch.float64)
    a, b = moments(f), moments(f + 2)
    assert frechet_distance(a, b) == pytest.approx(20 * 4, rel=1e-6)
    other = moments(torch.randn(5, 20, dtype=torch.float64))
    upper = frechet_distance(Moments(a.mu, 0 * a.sigma, 6), Moments(other.mu, 0 * a.sigma, 5))
    upper += (a.sigma.trace() + other.sigma.trace()).item()
    assert 0 < frechet_distance(a, other) <= upper


def test_moments_are_unbiased_and_in_double_precision():
    f = torch.randn(7, 3)
    fitted = moments(f)
    expected = np.cov(f.double().numpy(), rowvar=False, ddof=1)
    np.testing.assert_allclose(fitted.sigma.numpy(), expected, rtol=1e-12)
    assert fitted.sigma.dtype == fitted.mu.dtype == torch.float64
    assert fitted.n == 7


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="2 images or more"):
        moments(torch.randn(1, 3))
