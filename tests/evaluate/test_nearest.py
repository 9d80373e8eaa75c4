import pytest
import torch

from triptych.evaluate.nearest import nearest, share_nearer


def test_the_nearest_is_the_nearest_of_all_chunks():
    among = torch.rand(25_001, 1, 2, 2)
    x = torch.cat([among[[3, 12_345, 25_000]] + 1e-3, torch.full((1, 1, 2, 2), -1.0)])
    distance, which = nearest(x, among)
    assert which[:3].tolist() == [3, 12_345, 25_000]
    exact = (x[3] - among).flatten(1).norm(dim=1)
    torch.testing.assert_close(distance[3], exact.min())
    assert which[3] == exact.argmin()
    torch.testing.assert_close(distance[:3], torch.full((3,), 2e-3), atol=1e-4, rtol=0.1)


def test_copies_are_at_no_distance_at_all():
    among = torch.randint(0, 256, (2000, 1, 28, 28)) / 255
    distance, which = nearest(among[700:900], among)
    assert torch.equal(which, torch.arange(700, 900))
    assert (distance == 0).all()


def test_the_share_that_is_nearer_is_the_quantile_of_its_own_distribution(g):
    a, b = torch.rand(20_000, generator=g), torch.rand(20_000, generator=g)
    assert abs(share_nearer(a, b, 0.01).value - 0.01) < 0.004
    assert share_nearer(0.5 * a, b, 0.1).value > 0.19


def test_the_error_of_the_share_and_its_mean_are_those_of_many_draws(g):
    found = [share_nearer(*torch.rand(2, 400, generator=g), 0.05) for _ in range(600)]
    values = torch.tensor([share.value for share in found])
    usual, spread = found[0].usual, values.std().item()
    assert values.mean().item() == pytest.approx(usual, abs=4 * spread / 600**0.5)
    said = torch.tensor([share.std for share in found]).square().mean().sqrt().item()
    assert said == pytest.approx(spread, rel=0.1)


def test_the_own_error_of_a_share_is_without_that_of_what_it_is_beside(g):
    """A mean over seeds has this one less often the more there are, and the other as it is."""
    b = torch.rand(400, generator=g)
    found = [share_nearer(torch.rand(400, generator=g), b, 0.05) for _ in range(600)]
    spread = torch.tensor([share.value for share in found]).std().item()
    said = torch.tensor([share.own_std for share in found]).square().mean().sqrt().item()
    assert said == pytest.approx(spread, rel=0.15)


def test_few_distances_are_usually_nearer_than_their_quantile_says(g):
    """Of 30, the second smallest is the 5% quantile, and 2 of 31 lie below it."""
    assert share_nearer(*torch.rand(2, 30, generator=g), 0.05).usual == pytest.approx(2 / 31)


@pytest.mark.parametrize("m", [100, 300, 700])
def test_a_quantile_that_is_one_of_the_distances_is_that_one(m, g):
    """0.07 x 100 is 7.000000000000001."""
    usual = share_nearer(*torch.rand(2, m, generator=g), 0.07).usual
    assert usual == pytest.approx(7 * m / 100 / (m + 1))


def test_no_share_is_without_error(g):
    a, b = torch.rand(300, generator=g) + 2, torch.rand(400, generator=g)
    assert share_nearer(a, b, 0.05).value == 0
    assert 0.002 < share_nearer(a, b, 0.05).std < 0.005


def test_distances_of_binary_images_tie_and_their_share_is_as_usual(g):
    found = [
        share_nearer(*torch.poisson(torch.full((2, 2000), 30.0), generator=g).sqrt(), 0.01)
        for _ in range(200)
    ]
    values = torch.tensor([share.value for share in found])
    assert values.mean().item() == pytest.approx(0.01, abs=4 * values.std().item() / 200**0.5)


def test_the_error_of_a_large_share_has_the_slope_in_it(g):
    found = [
        share_nearer(torch.randn(400, generator=g) - 2, torch.randn(400, generator=g), 0.05)
        for _ in range(400)
    ]
    spread = torch.tensor([share.value for share in found]).std().item()
    said = torch.tensor([share.std for share in found]).square().mean().sqrt().item()
    assert said == pytest.approx(spread, rel=0.15)
