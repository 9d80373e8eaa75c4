import pytest
import torch
from torch.distributions import Normal

from triptych.evaluate.two_sample import (
    classifier_accuracy,
    energy_distance,
    permutation_test,
    squared_mmd,
)

TESTS = {"energy": energy_distance, "mmd": squared_mmd}


def naive_energy(a, b):
    def mean_distance(u, v):
        return (u[:, None] - v[None]).norm(dim=-1).mean().item()

    return 2 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b)


def test_energy_distance_is_its_formula(g):
    a, b = torch.randn(40, 3).double(), 0.5 + torch.randn(40, 3).double()
    distance, _ = energy_distance(a, b, g, permutations=10)
    assert distance == pytest.approx(naive_energy(a, b), abs=1e-9)


def test_mmd_is_its_formula(g):
    a, b = torch.randn(30, 3).double(), 0.5 + torch.randn(30, 3).double()
    pooled = torch.cat([a, b])
    apart = (pooled[:, None] - pooled[None]).norm(dim=-1)
    median = apart[apart > 0].median()

    def kernel(u, v):
        return (-(u[:, None] - v[None]).square().sum(-1) / (2 * median**2)).exp().mean().item()

    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    assert squared_mmd(a, b, g, permutations=10).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("test", TESTS)
def test_two_samples_of_one_distribution_stay_below_the_null_level(test):
    generator = torch.Generator().manual_seed(0)
    below = 0
    for _ in range(200):
        a, b = torch.randn(2, 40, 2, generator=generator)
        distance, level = TESTS[test](a, b, generator, permutations=100)
        below += distance < level
    # 190 are expected; the binomial's 99.9% interval.
    assert 178 <= below <= 199


@pytest.mark.parametrize("test", TESTS)
def test_a_shifted_sample_lies_above_the_null_level(test, g):
    distance, level = TESTS[test](torch.randn(100, 2), 1 + torch.randn(100, 2), g)
    assert distance > 3 * level


def test_samples_of_two_sizes_are_refused(g):
    with pytest.raises(ValueError, match="same size, not 5 and 6"):
        permutation_test(torch.eye(11), 5, g, 10)


def test_a_classifier_finds_what_can_be_found_and_no_more():
    """Two Gaussians at distance d: the best possible accuracy is Phi(d / 2)."""
    a, b = torch.randn(4000, 3), torch.randn(4000, 3)
    b[:, 0] += 1.5
    accuracy, level = classifier_accuracy(a, b)
    best = Normal(0.0, 1.0).cdf(torch.tensor(0.75)).item()
    assert accuracy == pytest.approx(best, abs=0.025)
    assert level == pytest.approx(0.5 + 1.645 * 0.5 / 4000**0.5)


def test_a_classifier_does_not_mind_where_the_latents_lie():
    a, b = torch.randn(1000, 3), torch.randn(1000, 3)
    b[:, 0] += 1.5
    far = classifier_accuracy(a + 1e4, b + 1e4).value
    assert far == pytest.approx(classifier_accuracy(a, b).value, abs=0.02)


def test_a_classifier_learns_from_a_few_hundred_points_too():
    torch.manual_seed(0)
    angle = 2 * torch.pi * torch.rand(360)
    ring = 1.4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(360, 2)
    assert classifier_accuracy(torch.randn(360, 2), ring).value > 0.7


def test_a_classifier_that_has_nothing_to_find_guesses():
    assert classifier_accuracy(torch.randn(2000, 3), torch.randn(2000, 3)).value < 0.54


def test_a_classifier_is_not_asked_about_what_it_was_trained_on():
    """Halves that can be told apart and are trained on, halves that cannot and are asked about."""
    a, b = torch.randn(2000, 3), torch.randn(2000, 3)
    b[:1000] += 3
    assert classifier_accuracy(a, b).value < 0.54
