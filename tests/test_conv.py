import pytest
import torch
from toys import randomised

from triptych.nets.conv import ConvNet, PatchNet


@pytest.mark.parametrize("net", [ConvNet, PatchNet])
def test_a_coupling_network_sees_two_places_each_way(net):
    net = randomised(net((2, 7, 9), 16, 3))
    x = torch.randn(1, 2, 7, 9, requires_grad=True)
    net(x)[0, :, 3, 4].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0) > 0
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[1:6, 2:7] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(("net", "knows"), [(ConvNet, False), (PatchNet, True)])
def test_only_one_with_a_bias_for_each_place_knows_where_it_is(net, knows):
    """Two places whose neighbourhoods are the same, far from the border."""
    out = randomised(net((2, 7, 9), 16, 3))(torch.ones(1, 2, 7, 9))
    assert torch.allclose(out[..., 3, 3], out[..., 3, 5], atol=1e-5) != knows
