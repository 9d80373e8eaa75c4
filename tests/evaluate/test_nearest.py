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


def test_the_share_that_is_nearer_is_the_quantile_of_its_own_distribution(g):
    a, b = torch.rand(20_000, generator=g), torch.rand(20_000, generator=g)
    assert abs(share_nearer(a, b, 0.01) - 0.01) < 0.004
    assert share_nearer(0.5 * a, b, 0.1) > 0.19
