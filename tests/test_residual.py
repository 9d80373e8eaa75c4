import pytest
import torch
from toys import randomised

from triptych.nets.residual import Residual, ResidualDecoder, ResidualEncoder


@pytest.mark.parametrize(
    ("shape", "channels"), [((1, 28, 28), (8, 16)), ((1, 8, 8), (8,)), ((3, 8, 8), (8, 8, 32))]
)
def test_images_become_numbers_and_numbers_images(shape, channels):
    C, H, W = shape
    encoder, decoder = (net(shape, channels, 2, 5) for net in (ResidualEncoder, ResidualDecoder))
    assert encoder(torch.rand(3, *shape)).shape == (3, 5)
    assert decoder(torch.randn(4, 3, 5)).shape == (4, 3, C * H * W)


@torch.no_grad()
def test_samples_in_front_are_decoded_one_by_one():
    decoder = randomised(ResidualDecoder((1, 8, 8), (8, 16), 1, 3))
    z = torch.randn(4, 2, 3)
    each = torch.stack([decoder(row) for row in z])
    torch.testing.assert_close(decoder(z), each, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    encoder, decoder = (
        ResidualEncoder((1, 8, 8), (8, 16), 1, 6),
        ResidualDecoder((1, 8, 8), (8, 16), 1, 6),
    )
    parameters = dict(encoder.named_parameters("e")) | dict(decoder.named_parameters("d"))
    optimizer = torch.optim.Adam(parameters.values(), 1e-2)
    x = torch.rand(4, 1, 8, 8)
    for _ in range(3):
        optimizer.zero_grad()
        (decoder(encoder(x)) - x.flatten(1)).square().mean().backward()
        optimizer.step()
    dead = [n for n, p in parameters.items() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == []


def test_a_block_starts_as_the_identity():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(Residual(8)(x), x)


def test_sizes_that_cannot_be_halved_are_refused():
    for net in (ResidualEncoder, ResidualDecoder):
        with pytest.raises(ValueError, match="halved 3 times"):
            net((1, 28, 28), (8, 8, 8), 1, 4)
