import math

import numpy as np
import pytest
import torch

from triptych.evaluate.fidelity import (
    classes,
    frechet_error,
    frechet_growth,
    kernel_distance,
    neighbourhoods,
    shuffled,
)
from triptych.evaluate.frechet import frechet_distance, moments


def test_kernel_distance_of_one_block_is_its_formula():
    a, b = torch.randn(40, 3).double(), 1 + torch.randn(40, 3).double()

    def k(x, y):
        return (x @ y / 3 + 1).item() ** 3

    rows, others = shuffled(a), shuffled(b)

    def block(i):
        x, y = rows[4 * i : 4 * i + 4], others[4 * i : 4 * i + 4]
        within = [
            sum(k(u[i], u[j]) for i in range(4) for j in range(4) if i != j) / 12 for u in (x, y)
        ]
        return sum(within) - 2 * sum(k(u, v) for u in x for v in y) / 16

    blocks = torch.tensor([block(i) for i in range(10)])
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(blocks.mean().item(), rel=1e-5)
    assert found.mc_std == pytest.approx((blocks.std() / math.sqrt(10)).item(), rel=1e-5)


def test_kernel_distance_is_unbiased_and_its_error_honest():
    draws = torch.randn(150, 2, 60, 4)
    found = [kernel_distance(a, b) for a, b in draws]
    z_scores = torch.tensor([f.value / f.mc_std for f in found])
    assert abs(torch.tensor([f.value for f in found]).mean()) < 4 * found[0].mc_std / 150**0.5 * 2
    assert 0.8 < z_scores.std() < 1.6  # Student's t of nine degrees of freedom: 1.13


def test_kernel_distance_does_not_depend_on_how_a_file_is_ordered():
    """Two kinds of images, one after the other: a block of them is not of the whole's kind."""
    kinds = torch.arange(2).repeat_interleave(300)[:, None]
    a, b = (torch.randn(600, 4) + 3 * kinds for _ in "ab")
    a = a[torch.randperm(600)]
    found = kernel_distance(a, b)
    assert abs(found.value) < 4 * found.mc_std
    assert found.mc_std < 10  # in the order of the file: 250 +- 30


def test_features_in_single_precision_are_measured_in_double():
    """Sums of (x.y / D + 1)^3 are of 1e9 here, and differences of them of 1e5."""
    a, b = 30 + torch.randn(2, 400, 12)
    x, y = a.double(), b.double()
    assert kernel_distance(a, b) == kernel_distance(x, y)
    assert frechet_distance(moments(a), moments(b)) == frechet_distance(moments(x), moments(y))


def test_kernel_distance_refuses_what_has_no_blocks():
    with pytest.raises(ValueError, match="20 or more, not 19 and 19"):
        kernel_distance(torch.randn(19, 2), torch.randn(19, 2))


def naive(real, fake, k):
    def reach(x):
        return [sorted((x - u).norm(dim=1).tolist())[k] for u in x]

    r, f = reach(real), reach(fake)
    inside = [[(u - v).norm().item() <= r[j] for j, v in enumerate(real)] for u in fake]
    recall = [any((v - u).norm().item() <= f[i] for i, u in enumerate(fake)) for v in real]
    return (
        sum(map(any, inside)) / len(fake),
        sum(recall) / len(real),
        sum(map(sum, inside)) / (k * len(fake)),
        sum(any(row[j] for row in inside) for j in range(len(real))) / len(real),
    )


def test_neighbourhoods_are_their_definitions():
    real, fake = torch.randn(40, 3).double(), 0.7 + 1.3 * torch.randn(30, 3).double()
    for k in (1, 3):
        assert neighbourhoods(real, fake, k) == pytest.approx(naive(real, fake, k))


@pytest.mark.parametrize(("real", "fake"), [(5, 9), (9, 5)])
def test_neighbourhoods_need_more_images_of_both_kinds(real, fake):
    with pytest.raises(ValueError, match="neighbourhoods of 5 need more images"):
        neighbourhoods(torch.randn(real, 3), torch.randn(fake, 3), 5)


def test_neighbourhoods_tell_what_is_wrong():
    """Real: two far clusters. Samples of one cluster are precise and recall half; samples spread
    wide are imprecise."""
    real = torch.cat([torch.randn(300, 2), 50 + torch.randn(300, 2)])
    half = neighbourhoods(real, torch.randn(600, 2), 5)
    assert half.precision > 0.9
    assert half.recall == pytest.approx(0.5, abs=0.05)
    assert half.coverage == pytest.approx(0.5, abs=0.05)
    wide = neighbourhoods(real, 25 + 30 * torch.randn(600, 2), 5)
    assert wide.precision < 0.2
    same = neighbourhoods(real, torch.cat([torch.randn(300, 2), 50 + torch.randn(300, 2)]), 5)
    assert same.density == pytest.approx(1, abs=0.15)
    assert same.coverage > 0.9


def test_frechet_growth_finds_the_distance_without_bias():
    """N(0, I) against N(0.5, I): 0.25 D exactly, while n samples of it lie above."""
    D = 64
    reference, samples = torch.randn(100_000, D), 0.5 + torch.randn(5_000, D)
    growth = frechet_growth(samples, reference)
    assert growth.n == [64, 128, 256, 500, 1000, 1666, 2500, 5000]
    assert growth.fid == sorted(growth.fid, reverse=True)
    assert growth.fid[0] - 0.25 * D > 1
    assert growth.fid == sorted(growth.fid, reverse=True)
    assert growth.at_infinity == pytest.approx(0.25 * D, abs=0.3)


def test_a_limit_needs_blocks_of_seven_times_as_many_samples_as_dimensions():
    """Both are of one law, and at n = 2 D the line has left FID: its end is below zero."""
    reference = torch.randn(10_000, 8)
    assert frechet_growth(torch.randn(559, 8), reference).at_infinity is None
    limits = [frechet_growth(torch.randn(560, 8), reference).at_infinity for _ in range(60)]
    assert np.mean(limits) > -3 * np.std(limits) / 60**0.5


def test_all_samples_count_in_a_kernel_distance(g):
    a, b = torch.randn(2, 29, 4, generator=g)
    before = kernel_distance(a, b).value
    for i in range(29):
        moved = a.clone()
        moved[i] += 1
        assert kernel_distance(moved, b).value != before, i


def test_frechet_growth_needs_samples():
    with pytest.raises(ValueError, match="20 samples or more, not 19"):
        frechet_growth(torch.randn(19, 2), torch.randn(50, 2))
    assert frechet_growth(torch.randn(20, 2), torch.randn(50, 2)).n[-1] == 20


def test_classes():
    real = torch.eye(4)[torch.arange(400) % 4] * 9
    same = classes(real, real)
    assert same.distance == 0
    assert same.confidence == pytest.approx(math.exp(9) / (math.exp(9) + 3))
    one = classes(real[:1].expand(10, -1), real)
    assert one.distance == pytest.approx(0.75)
    assert (one.shares, same.shares) == ([1, 0, 0, 0], [0.25] * 4)
    assert classes(torch.zeros(5, 4), real).confidence == pytest.approx(0.25)


def test_the_error_of_a_distance_is_that_of_other_samples():
    reference = moments(torch.randn(20_000, 8))
    draws = [1.3 * torch.randn(400, 8) + 0.2 for _ in range(60)]
    spread = torch.tensor([frechet_distance(moments(d), reference) for d in draws]).std().item()
    claimed = sum(frechet_error(d, reference) for d in draws) / 60
    assert claimed / spread == pytest.approx(1, abs=0.3)
