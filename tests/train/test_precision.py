import pytest
import torch
from toys import (
    images,
    randomised,
    tiny_autoregressive_vae,
    tiny_ddpm,
    tiny_flow,
    tiny_vae,
)

from triptych.evaluate.likelihood import importance_bounds
from triptych.flows.multiscale import Invertible1x1
from triptych.flows.raster import NearNet
from triptych.nets.mlp import MLP
from triptych.train.precision import networks_in_bf16


def outputs_of(model, kind):
    """The precisions in which the modules of a kind answer."""
    seen = []
    for m in model.modules():
        if isinstance(m, kind):
            m.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    return seen


def test_networks_run_in_bfloat16_and_losses_do_not(g):
    x = images(4).float()
    for model in (tiny_vae("flow"), tiny_flow(), tiny_ddpm()):
        seen = outputs_of(model, torch.nn.Linear | torch.nn.Conv2d)
        noise = model.noise(4, g)
        with networks_in_bf16(model, True):
            loss = model.loss(x, noise)
        assert seen
        assert torch.bfloat16 in seen
        assert loss.dtype == torch.float32
        loss.mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_the_mixtures_matrix_products_stay_in_full_precision():
    model, z = randomised(tiny_vae("mixture")), 3 * torch.randn(50, 2)
    plain = model.prior.log_prob(z)
    with networks_in_bf16(model, True):
        assert torch.equal(model.prior.log_prob(z), plain)


@torch.no_grad()
def test_the_bias_that_a_splines_knots_are_placed_by_is_not_rounded():
    net, near = NearNet(6, 4, 8, 5), torch.randn(2, 6, 4)
    net.last.bias.copy_(torch.linspace(1.001, 2.001, 5))
    with networks_in_bf16(net, True):
        assert torch.equal(net(near), net.last.bias.expand(2, 6, 5))
        torch.nn.init.ones_(net.last.weight)
        assert torch.equal(net(near), net(near.bfloat16().float())), "the rest is"


@torch.no_grad()
def test_1x1_convolutions_stay_in_full_precision():
    model, x = randomised(tiny_flow()), torch.randn(2, 4, 4, 4)
    (rotation,) = (m for m in model.modules() if isinstance(m, Invertible1x1))
    plain = [*rotation.inverse(x), *rotation(x)]
    with networks_in_bf16(model, True):
        inside = [*rotation.inverse(x), *rotation(x)]
    for a, b in zip(plain, inside, strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: tiny_vae("flow"), tiny_flow, tiny_ddpm])
def test_everything_is_as_before_afterwards(make, g):
    model, x = randomised(make(), 0.1), images(4).float()
    noise = model.noise(4, g)
    before = model.loss(x, noise)
    with networks_in_bf16(model, True):
        assert not torch.equal(model.loss(x, noise), before)
    assert torch.equal(model.loss(x, noise), before)
    with pytest.raises(ZeroDivisionError), networks_in_bf16(model, True):
        raise ZeroDivisionError
    assert torch.equal(model.loss(x, noise), before)
    assert not any("forward" in vars(m) for m in model.modules())


@torch.no_grad()
def test_switched_off_it_changes_nothing(g):
    model, x = tiny_vae(), images(4).float() / 16
    noise = model.noise(4, g)
    before = model.loss(x, noise)
    with networks_in_bf16(model, False):
        assert torch.equal(model.loss(x, noise), before)


@torch.no_grad()
def test_bfloat16_moves_the_bounds_only_a_little(g):
    for model in (tiny_vae("flow"), tiny_autoregressive_vae(), tiny_flow()):
        x = images(20).float() / (1 if model.__class__.__name__ == "PixelFlow" else 16)
        noise = model.noise(20, g)
        full = model.loss(x, noise)
        with networks_in_bf16(model, True):
            rounded = model.loss(x, noise)
        torch.testing.assert_close(rounded, full, rtol=0.02, atol=0)


@pytest.mark.parametrize("bf16", [True, False])
def test_importance_samples_are_decoded_in_bfloat16_and_the_rest_is_not(bf16):
    """Weights of a VAE of which decoder, encoder and prior are networks."""
    model, x = randomised(tiny_vae("flow")), images(10).float() / 16
    parts = (model.likelihood, model.posterior, model.prior)
    decoder, *rest = (outputs_of(part, torch.nn.Linear) for part in parts)
    g = torch.Generator().manual_seed(0)
    bounds = importance_bounds(model, x, 5, g, bf16)
    assert set(decoder) == {torch.bfloat16 if bf16 else torch.float32}
    assert {dtype for seen in rest for dtype in seen} == {torch.float32}
    assert bounds.elbo.values.dtype == torch.float64
    exact = importance_bounds(model, x, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(bounds.elbo.values, exact.elbo.values, rtol=0.01, atol=0)


@torch.no_grad()
def test_a_network_in_bfloat16_answers_in_the_precision_it_was_asked_in():
    net, x = MLP([3, 4, 2]), torch.randn(5, 3)
    seen = outputs_of(net, torch.nn.Linear)
    with networks_in_bf16(net, True):
        given, named = net(x), net(input=x)
    assert set(seen) == {torch.bfloat16}
    assert given.dtype == named.dtype == torch.float32
    assert torch.equal(given, named)
