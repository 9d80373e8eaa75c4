import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from toys import randomised

from triptych.nets.unet import SelfAttention, TimeEmbedding, UNet


@pytest.mark.parametrize(
    ("shape", "widths"), [((1, 28, 28), (8, 16)), ((1, 8, 8), (8, 16)), ((1, 8, 8), (8, 8, 32))]
)
def test_images_keep_their_shape(shape, widths):
    net = UNet(shape, widths, 1)
    assert net(torch.randn(2, *shape), torch.tensor([0, 999])).shape == (2, *shape)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="halved 3 times"):
        UNet((1, 28, 28), (8, 8, 8), 1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_every_parameter_gets_a_gradient(shape):
    """Zeroed last layers hide what is behind them for a step each."""
    net = UNet(shape, (16, 16), 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x, t, target = torch.randn(4, *shape), torch.tensor([0, 10, 200, 900]), torch.randn(4, *shape)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x, t) - target).square().mean().backward()
        optimizer.step()
    dead = [n for n, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == []


@torch.no_grad()
def test_the_output_depends_on_the_time():
    net, x = randomised(UNet((1, 8, 8), (16, 16), 1), 0.1), torch.randn(1, 1, 8, 8)
    outs = [net(x, torch.tensor([t])) for t in (0, 1, 500, 999)]
    for a, b in itertools.pairwise(outs):
        assert (a - b).abs().max() > 1e-4


@torch.no_grad()
def test_the_output_depends_on_the_whole_image():
    net, x = randomised(UNet((1, 8, 8), (16, 16), 1), 0.1), torch.randn(1, 1, 8, 8)
    t = torch.tensor([3])
    far = x.clone()
    far[..., -1, -1] += 1
    assert (net(far, t) - net(x, t))[0, 0, 0, 0].abs() > 0


def test_time_embeddings_tell_all_times_apart():
    e = TimeEmbedding(32)(torch.arange(1000.0))
    distances = torch.cdist(e, e) + 10 * torch.eye(1000)
    assert distances.min() > 0.05


@torch.no_grad()
def test_self_attention_is_torchs():
    layer, x = randomised(SelfAttention(16), 0.3), torch.randn(2, 16, 3, 5)
    tokens = layer.qkv(layer.norm(x)).reshape(2, 3, 4, 4, 15).transpose(-1, -2)
    seen = scaled_dot_product_attention(*tokens.unbind(1)).transpose(-1, -2)
    torch.testing.assert_close(layer(x), x + layer.out(seen.reshape(2, 16, 3, 5)))


def test_levels_too_small_to_normalise_are_refused():
    """Of one number a group, normalisation leaves nothing."""
    with pytest.raises(ValueError, match="8 channels at 1x1 are too few"):
        UNet((1, 8, 8), (8, 8, 8), 1)
