import pytest
import torch
from toys import (
    SHAPE,
    built,
    images,
    randomised,
    tiny_latent_ddpm,
    tiny_posterior,
    tiny_vae,
    training_data,
)

from triptych.ddpm import DDPM
from triptych.latent import LatentDDPM
from triptych.likelihoods import Gaussian
from triptych.nets.denoiser import Denoiser
from triptych.nets.mlp import MLP
from triptych.priors.gaussian import StandardGaussian
from triptych.schedules import cosine_beta
from triptych.train import checkpoint
from triptych.train.fit import fit
from triptych.train.order import TrainConfig
from triptych.vae import VAE


def still(model):
    """What is not to be trained: the VAE, and what standardises its latents."""
    return {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("ddpm")}


def test_training_moves_the_chain_and_nothing_of_the_vae(tmp_path):
    model = randomised(built("latent-ddpm"), 0.3)
    before, chain = still(model), model.ddpm.net.door.weight.detach().clone()
    config = TrainConfig(epochs=3, batch_size=8, lr=1e-2, weight_decay=1.0, bf16=False)
    assert fit([model], [0], [tmp_path], training_data("raw"), config) == []
    after = checkpoint.load(tmp_path)
    for weights in (after.model, after.ema, after.best):
        for name, value in before.items():
            if name not in ("center", "spread"):
                assert torch.equal(weights[name], value), name
    assert not torch.equal(after.best["ddpm.net.door.weight"], chain)
    assert not any(k.startswith("exp_avg.autoencoder") for k in after.optimizer)


def test_a_trained_prior_of_pseudo_inputs_stays_what_it_is(tmp_path):
    """It starts from training images, once: with its VAE."""
    chain = DDPM(Denoiser(2, 9, 1), cosine_beta(6), (2, 1, 1), None, "v", clip=False)
    model = LatentDDPM(randomised(tiny_vae("vamp"), 0.3), chain)
    before = model.autoencoder.prior.pseudo_inputs.clone()
    config = TrainConfig(epochs=1, batch_size=8, bf16=False)
    assert fit([model], [0], [tmp_path], training_data("dynamic"), config) == []
    assert torch.equal(model.autoencoder.prior.pseudo_inputs, before)
    assert not torch.equal(model.center, torch.zeros(2))


def test_a_vae_whose_training_is_over_drops_nothing_and_takes_each_image_by_itself(tmp_path):
    """Else the chain would learn wider latents than are decoded."""
    vae, chain = tiny_vae(), tiny_latent_ddpm().ddpm
    layers = [torch.nn.Flatten(-3), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8)]
    vae.posterior.net = torch.nn.Sequential(*layers, torch.nn.Dropout(0.5), torch.nn.Linear(8, 4))
    model = LatentDDPM(vae, chain).train()
    assert model.ddpm.training
    x, noise = images(8).float(), model.noise(8, torch.Generator().manual_seed(0))
    assert torch.equal(model.encode(x, noise["eps_z"]), model.encode(x, noise["eps_z"]))
    config = TrainConfig(epochs=1, batch_size=8, bf16=False)
    assert fit([model], [0], [tmp_path], training_data("threshold"), config) == []


def test_the_chain_sees_latents_of_mean_zero_and_deviation_one(g):
    model = randomised(built("latent-ddpm"), 0.5)
    x, seen = images(200).float(), []
    noise = model.noise(200, g)
    model.prepare(x, noise)
    model.ddpm.loss = lambda z, noise: seen.append(z) or z.flatten(1).sum(1)
    model.loss(x, noise)
    z = seen[0][..., 0, 0]
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=1e-5, rtol=0)


@torch.no_grad()
def test_with_the_best_denoiser_of_gaussian_latents_their_distribution_comes_back(g):
    """Of N(0, I) the best prediction of v is 0, which is how the denoiser starts."""
    model = tiny_latent_ddpm(T=200)
    model.center, model.spread = torch.tensor([5.0, -1.0]), torch.tensor([0.1, 3.0])
    z = model.latents(model.ddpm.sample(20_000, g))
    torch.testing.assert_close(z.mean(0), model.center, atol=0.08, rtol=0)
    torch.testing.assert_close(z.std(0), model.spread, atol=0, rtol=0.03)


@torch.no_grad()
def test_samples_are_the_decoders_means_on_the_vaes_own_latents(g):
    model = randomised(tiny_latent_ddpm(), 0.5)
    model.center, model.spread = torch.tensor([2.0, -3.0]), torch.tensor([0.5, 2.0])
    state = g.get_state()
    u = model.ddpm.sample(6, g)[..., 0, 0]
    decoded = model.autoencoder.likelihood.mean(u * model.spread + model.center)
    assert torch.equal(model.sample(6, g.set_state(state)), decoded)


def test_a_chain_of_another_shape_or_on_levels_is_refused():
    vae = VAE(StandardGaussian(2), tiny_posterior(), Gaussian(MLP([2, 64]), SHAPE, 17))
    for shape, levels in (((3, 1, 1), None), ((2, 1, 1), 17)):
        chain = DDPM(Denoiser(shape[0], 8, 1), cosine_beta(4), shape, levels, clip=False)
        with pytest.raises(ValueError, match=r"real \(2, 1, 1\)"):
            LatentDDPM(vae, chain)
    with pytest.raises(ValueError, match="must not clip"):
        LatentDDPM(vae, DDPM(Denoiser(2, 8, 1), cosine_beta(4), (2, 1, 1), None, clip=True))


def test_a_chain_on_real_numbers_has_no_probability_of_levels(g):
    chain = tiny_latent_ddpm().ddpm
    z = torch.randn(3, 2, 1, 1)
    assert torch.equal(chain.scale(z), z)
    with pytest.raises(ValueError, match="no levels"):
        chain.reconstruction_term(z, z)
