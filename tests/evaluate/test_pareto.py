import math

import pytest
import torch

from triptych.evaluate.pareto import LargestWeights, pareto_shape, tail_length, unreliable_above

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.7, 1.2])
def test_the_shape_of_pareto_draws_is_found(k, g):
    """By inversion: x = s ((1 - u)^-k - 1) / k has shape k, whatever its scale s."""
    u = torch.rand(4000, 3, generator=g)
    x = torch.tensor([0.1, 1.0, 50.0]) * ((1 - u) ** -k - 1) / k
    torch.testing.assert_close(
        pareto_shape(x.sort(0).values), torch.full((3,), k), atol=0.07, rtol=0
    )


def test_the_shape_is_the_published_estimators_drawn_to_a_half():
    """A number at a time, in the sign of k that Zhang & Stephens have."""
    x = [0.02, 0.1, 0.15, 0.4, 0.5, 0.9, 1.0, 1.7, 3.0, 8.0, 11.0]
    n, m = len(x), 30 + math.floor(math.sqrt(len(x)))
    quartile = x[math.floor(n / 4 + 0.5) - 1]

    def k(theta):
        return -sum(math.log(1 - theta * v) for v in x) / n

    def profile(theta):
        return n * (math.log(theta / k(theta)) + k(theta) - 1)

    grid = [1 / x[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]
    weights = [1 / sum(math.exp(profile(b) - profile(a)) for b in grid) for a in grid]
    shape = -k(sum(w * theta for w, theta in zip(weights, grid, strict=True)))
    expected = (n * shape + 10 * 0.5) / (n + 10)
    assert pareto_shape(torch.tensor(x)[:, None]).item() == pytest.approx(expected, rel=1e-9)


def test_the_tail_of_gaussian_log_weights_grows_with_their_spread(g):
    narrow, wide = LargestWeights(20_000), LargestWeights(20_000)
    for _ in range(10):
        log_w = torch.randn(2000, 4, generator=g)
        narrow.update(0.3 * log_w)
        wide.update(4 * log_w)
    assert (narrow.k_hat() < 0.5).all()
    assert (wide.k_hat() > 0.7).all()


def test_streaming_does_not_change_the_tail_nor_does_a_common_factor(g):
    log_w = 2 * torch.randn(1000, 5, generator=g)
    whole, parts = LargestWeights(1000), LargestWeights(1000)
    whole.update(log_w)
    for chunk in (log_w + 300).split(77):
        parts.update(chunk)
    assert len(whole.log_w) == tail_length(1000) + 1 == 96
    assert tail_length(100) == 20
    torch.testing.assert_close(parts.k_hat(), whole.k_hat())


def test_too_few_weights_have_no_shape_and_equal_ones_no_tail():
    few, equal = LargestWeights(5), LargestWeights(100)
    few.update(torch.randn(5, 2))
    equal.update(torch.zeros(100, 2))
    assert few.k_hat().isnan().all()
    assert (equal.k_hat() == -math.inf).all()


def test_few_weights_take_less_of_a_tail():
    assert [round(unreliable_above(K), 3) for K in (25, 100, 1000, 5000)] == [
        0.285,
        0.5,
        0.667,
        0.7,
    ]


@pytest.mark.parametrize("spread", [5e-6, 5e-5])
def test_weights_that_rounding_alone_tells_apart_have_no_tail(spread, g):
    weights = LargestWeights(1000)
    weights.update(-100 + spread * torch.randn(1000, 50, generator=g, dtype=torch.float32))
    assert (weights.k_hat() == -math.inf).all()


@pytest.mark.parametrize("base", [-5000, -20_000])
def test_rounding_of_large_log_weights_is_no_tail(base, g):
    """As of images of many pixels, in float32, whose weights differ by a hundredth of a percent."""
    w = LargestWeights(1000)
    w.update((base + 1e-3 * torch.randn(1000, 50, generator=g)).float().double())
    assert (w.k_hat() < 0.7).all()
