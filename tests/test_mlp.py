import pytest
import torch
from torch import nn

from triptych.nets.mlp import MLP, GatedMLP


@torch.no_grad()
def test_every_layer_passes_on_the_mean_square_that_it_gets():
    """torch's own start loses a factor of eight a layer: after five, nothing is left."""
    torch.manual_seed(0)
    h, layers = torch.randn(2000, 512), MLP([512] * 6)
    for layer in layers:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            assert h.square().mean().item() == pytest.approx(1, rel=0.1)


@torch.no_grad()
def test_a_network_may_start_at_zero():
    assert (MLP([3, 8, 2], zero_last=True)(torch.randn(4, 3)) == 0).all()
    assert (MLP([3, 8, 2])(torch.randn(4, 3)) != 0).any()


@torch.no_grad()
def test_a_gated_layer_is_a_linear_one_times_a_sigmoid():
    net, x = GatedMLP([3, 4, 2]), torch.randn(5, 3)
    gate, last = net
    value, opening = (x @ gate.both.weight.T + gate.both.bias).chunk(2, -1)
    torch.testing.assert_close(net(x), last(value * opening.sigmoid()))
