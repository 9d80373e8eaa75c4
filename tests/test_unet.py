import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from toys import randomised, tiny_ddpm

from triptych.nets.unet import ResidualBlock, SelfAttention, TimeEmbedding, UNet
from triptych.train.batches import step_noise


@pytest.mark.parametrize(
    ("shape", "widths"), [((1, 28, 28), (8, 16)), ((1, 8, 8), (8, 16)), ((1, 8, 8), (8, 8, 32))]
)
def test_images_keep_their_shape(shape, widths):
    net = UNet(shape, widths, 1)
    assert net(torch.randn(2, *shape), torch.tensor([0, 999])).shape == (2, *shape)


def test_the_lowest_level_alone_has_attention():
    net, seen = UNet((1, 16, 16), (8, 8, 16), 2), []
    for layer in net.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_hook(lambda _, x, y: seen.append(tuple(x[0].shape)))
    net(torch.randn(1, 1, 16, 16), torch.zeros(1))
    assert len(seen) >= 2 + 3  # on the way down, on the way up
    assert set(seen) == {(1, 16, 2, 2)}


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


@torch.no_grad()
def test_dropout_is_what_torch_does_with_the_same_maps():
    """Only the blocks' second convolutions see less, each channel scaled or gone."""
    net = randomised(UNet((1, 8, 8), (8, 16), 1, dropout=0.25), 0.1)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 900])
    u = torch.rand(3, net.drops)
    layers = [*net.down, *net.middle, *net.up]
    blocks = [layer for layer in layers if isinstance(layer, ResidualBlock)]
    assert net.drops == sum(block.conv2.in_channels for block in blocks)
    keep = iter(((u >= 0.25).float() / 0.75).split([b.conv2.in_channels for b in blocks], 1))
    for block in blocks:
        part = next(keep)[..., None, None]
        block.conv2.register_forward_pre_hook(lambda m, inputs, part=part: (inputs[0] * part,))
    expected = net(x, t)
    for block in blocks:
        block.conv2._forward_pre_hooks.clear()
    torch.testing.assert_close(net(x, t, u), expected)
    assert not torch.allclose(net(x, t), expected)


def test_dropout_keeps_each_channel_as_often_as_it_says_and_the_mean_as_it_is(g):
    net = UNet((1, 8, 8), (8,), 1, dropout=0.25)
    kept = net.kept(torch.rand(20_000, net.drops, generator=g))
    assert (kept > 0).float().mean().item() == pytest.approx(0.75, abs=0.005)
    assert kept.mean().item() == pytest.approx(1, abs=0.005)


def test_dropout_is_of_training_alone(g):
    model = tiny_ddpm(dropout=0.3)
    assert "dropout" not in model.noise(4, g)
    assert step_noise(model, 4, g)["dropout"].shape == (4, model.net.drops)
    assert "dropout" not in step_noise(tiny_ddpm(), 4, g)
