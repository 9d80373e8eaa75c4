import subprocess
import sys

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.distributions import Normal
from toys import (
    MODELS,
    PRIORS,
    SHAPE,
    built,
    global_generator_untouched,
    images,
    randomised,
    tiny_two_levels,
    tiny_vae,
)

from triptych.data import view
from triptych.posteriors import DiagonalGaussian
from triptych.protocols import Model


def binary(n):
    return view("threshold")(images(n), 17, None)


@pytest.mark.usefixtures("float64")
def test_rsample_and_log_prob_of_the_posterior_agree_with_torch():
    posterior = DiagonalGaussian(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), 3)
    h = posterior.encode(torch.randn(4, *SHAPE))
    eps = torch.randn(5, 4, 3)
    z, log_qz = posterior.rsample(h, eps)
    expected = Normal(h.mu, h.log_sigma.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(z, h.mu + h.log_sigma.exp() * eps)
    torch.testing.assert_close(log_qz, expected)
    torch.testing.assert_close(posterior.log_prob(z, h), expected)


@pytest.mark.usefixtures("float64")
def test_two_levels_agree_with_themselves_and_with_torch():
    """Each level's eps makes its own z; the log density of what was drawn is that of log_prob."""
    posterior = randomised(tiny_two_levels(4))
    h, eps = posterior.encode(torch.rand(3, *SHAPE)), torch.randn(5, 3, 4)
    z, log_qz = posterior.rsample(h, eps)
    z_1, z_2 = z.split(2, -1)
    below = posterior.given(h.seen, z_2)
    torch.testing.assert_close(z_2, h.top.mu + h.top.log_sigma.exp() * eps[..., 2:])
    torch.testing.assert_close(z_1, below.mu + below.log_sigma.exp() * eps[..., :2])
    expected = sum(
        Normal(q.mu, q.log_sigma.exp()).log_prob(value).sum(-1)
        for q, value in ((below, z_1), (h.top, z_2))
    )
    torch.testing.assert_close(log_qz, expected)
    torch.testing.assert_close(posterior.log_prob(z, h), expected)


@pytest.mark.parametrize("prior", PRIORS)
def test_loss_is_the_negative_elbo_of_each_image(prior, g):
    model, x = randomised(tiny_vae(prior)), binary(6)
    noise = model.noise(6, g)
    terms = model.terms(x, noise)
    loss = model.loss(x, noise)
    assert loss.shape == (6,)
    elbo = terms["log_px"] + terms["log_pz"] - terms["log_qz"]
    torch.testing.assert_close(loss, -elbo)
    torch.testing.assert_close(loss, -model.log_weight(x, **noise))
    z, _ = model.posterior.rsample(model.posterior.encode(x), noise["eps"])
    draws = {k: v for k, v in noise.items() if k == "draws"}  # they normalise, and are not dropped
    torch.testing.assert_close(terms["log_pz"], model.prior.log_prob(z, **draws))


@pytest.mark.parametrize("prior", PRIORS)
def test_weights_of_many_samples_are_separate_weights(prior):
    model, x = randomised(tiny_vae(prior)).double(), binary(3).double()
    eps = torch.randn(4, 3, 2, dtype=torch.float64)
    together = model.log_weight(x, eps, model.posterior.encode(x))
    apart = torch.stack([model.log_weight(x, e) for e in eps])
    assert together.shape == (4, 3)
    torch.testing.assert_close(together, apart)


def slices(noise, i):
    """The noise of image i; what belongs to all images, or to several samples, is known by name
    and by shape."""
    if not isinstance(noise, dict):
        return noise[i : i + 1]
    shared = {k: v for k, v in noise.items() if k == "draws"}
    chain = {k: slices(v, i) for k, v in noise.items() if k == "chain"}
    rest = {k: v for k, v in noise.items() if k not in ("draws", "chain")}
    own = {k: v[:, i : i + 1] if v.dim() == 3 else v[i : i + 1] for k, v in rest.items()}
    return shared | chain | own


@pytest.mark.parametrize("name", MODELS)
def test_an_images_loss_does_not_see_the_rest_of_the_batch(name, g):
    """An `Independent(..., 2)` over a flat batch sums over the images."""
    model, x = randomised(built(name)), images(5).float()
    x = x if MODELS[name][1] == "raw" else x / 16
    noise = model.noise(5, g)
    together = model.loss(x, noise)
    assert together.shape == (5,)
    for i in range(5):
        alone = model.loss(x[i : i + 1], slices(noise, i))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_all_randomness_is_an_argument(name):
    model, x = randomised(built(name), 0.05), images(5).float()
    x = x if MODELS[name][1] == "raw" else x / 16
    assert isinstance(model, Model)

    def everything(seed):
        g = torch.Generator().manual_seed(seed)
        return model.loss(x, model.noise(5, g)), model.sample(3, g)

    with global_generator_untouched():
        first, again, other = everything(1), everything(1), everything(2)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize(
    "name", ["vae-gaussian", "vae-iwae", "vae-resampled", "pixelflow", "ddpm", "vdm", "latent-ddpm"]
)
def test_the_noise_of_a_loss_is_standard_normal_or_of_the_unit_interval(name, g):
    noise = built(name).noise(500, g)
    parts = dict(noise) if isinstance(noise, dict) else {"v": noise}
    parts |= parts.pop("chain", {})
    for key, values in parts.items():
        if values.is_floating_point():
            kind = "norm" if key.startswith("eps") or key == "draws" else "uniform"
            assert kstest(values.flatten().numpy(), kind).pvalue > 1e-4


@torch.no_grad()
def test_samples_are_draws_or_means_as_asked(g):
    model = tiny_vae()
    assert set(model.sample(4, g).unique().tolist()) == {0.0, 1.0}
    model.mean_samples = True
    grey = model.sample(4, g)
    assert ((grey > 0) & (grey < 1)).all()


def test_scales_do_not_start_huge(g):
    """A sigma that starts at exp(1) drowns the decoder in noise."""
    model = tiny_vae("mixture")
    h = model.posterior.encode(binary(20))
    assert h.log_sigma.abs().mean() < 0.5
    assert model.prior.log_sigma.abs().max() == 0


@pytest.mark.parametrize("dims", [(), (0, 1), (0,)])
@pytest.mark.parametrize(
    ("asked", "whose"),
    [
        ("log_pz(z, None)", "prior's log_prob"),
        ("log_px(None, z)", "likelihood's log_prob"),
        ("rsample(None, z)", "posterior's log q(z|x)"),
    ],
)
def test_a_part_that_sums_over_samples_or_not_over_dimensions_is_refused(asked, whose, dims):
    """It would broadcast, and every bound would be wrong in silence."""
    code = f"""
import torch
from triptych.vae import VAE
class Part:
    def log_prob(self, *given): return given[-1].sum({dims}) if {dims} else given[-1]
    def rsample(self, h, eps): return eps, self.log_prob(eps)
class Vae(VAE):
    def __init__(self):
        torch.nn.Module.__init__(self)
        self.prior = self.likelihood = self.posterior = Part()
z = torch.zeros(3, 2)
Vae().{asked}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"ValueError: the {whose} must be of shape [3], not [" in done.stderr
