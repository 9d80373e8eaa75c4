"""Parts and images that do not fit are refused where they would give a number: a finite one, which
nobody would doubt."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toys import (
    LEVELS,
    MODELS,
    SHAPE,
    Point,
    built,
    images,
    posterior_named,
    prior_named,
    randomised,
    tiny_ddpm,
    tiny_flow,
    tiny_posterior,
    tiny_vae,
    tiny_vdm,
    training_data,
)

from triptych.data.views import check_levels, check_shown, view
from triptych.ddpm import DDPM
from triptych.evaluate.aggregate import aggregate_log_prob
from triptych.evaluate.ais import Annealing, annealed_log_px
from triptych.evaluate.diffusion import ddpm_bound, vdm_bound
from triptych.evaluate.evaluation import Evaluation
from triptych.evaluate.fidelity import neighbourhoods
from triptych.evaluate.frechet import moments
from triptych.evaluate.judge import judge
from triptych.evaluate.likelihood import flow_bounds, importance_bounds
from triptych.evaluate.ode import ode_bound
from triptych.evaluate.units import gaussian_marginals
from triptych.flows.coupling import Affine, Coupling
from triptych.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Gaussian,
)
from triptych.nets.mlp import MLP
from triptych.nets.unet import UNet
from triptych.pixelvae import AutoregressiveBernoulli
from triptych.posteriors import DiagonalGaussian, FlowPosterior, FullGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.samplers import ddim, dpm_solver, heun
from triptych.schedules import cosine_beta
from triptych.train.fit import fit
from triptych.train.order import TrainConfig
from triptych.vae import VAE
from triptych.vdm import VDM

QUICK = TrainConfig(epochs=1, batch_size=8, bf16=False)
BOUNDS = {
    "iwae": (tiny_vae, lambda m, x, g: importance_bounds(m, x, 2, g)),
    "ais": (tiny_vae, lambda m, x, g: annealed_log_px(m, x, Annealing(2, 2, 1), g)),
    "flow": (tiny_flow, lambda m, x, g: flow_bounds(m, x, 1, g)),
    "ddpm": (tiny_ddpm, lambda m, x, g: ddpm_bound(m, x, 1, g)),
    "vdm": (tiny_vdm, lambda m, x, g: vdm_bound(m, x, 1, g)),
    "ode": (tiny_ddpm, lambda m, x, g: ode_bound(m, x, g)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_its_own_view_and_no_other(name, g):
    model = built(name).float()
    x = view(MODELS[name][1])(images(20), LEVELS, g)
    check_shown(model, x)
    of_integers = MODELS[name][1] == "raw"
    wrong = [x - 1, x + 16, x * torch.nan, x.double(), x.to(torch.uint8), x.flatten(1), x[:0]]
    for other in [*wrong, *([x / 16] if of_integers else [images(20).float()])]:
        with pytest.raises(ValueError, match=r"the model takes|give a view of them"):
            check_shown(model, other)
    check_levels(model, LEVELS)
    if of_integers:
        with pytest.raises(ValueError, match="of 17 grey levels, and the images have 256"):
            check_levels(model, 256)


def test_grey_values_may_be_probabilities():
    check_shown(tiny_vae(), images(20) / 16)


@pytest.mark.parametrize("name", BOUNDS)
def test_no_bound_is_of_images_that_a_model_does_not_take(name, g):
    make, bound = BOUNDS[name]
    for x in (images(4) / 16 - 1, images(4).float() + 1):
        with pytest.raises(ValueError, match="choose another view"):
            bound(make(), x, g)


@pytest.mark.parametrize("name", ["vdm", "iwae"])
def test_a_bound_is_of_a_model_in_evaluation_mode_and_leaves_it_as_it_was(name):
    make, bound = BOUNDS[name]
    torch.manual_seed(0)
    model = randomised(make(), 0.3)
    if name == "iwae":
        model.likelihood.net = nn.Sequential(model.likelihood.net, nn.Dropout(0.9))
    x = (images(8) > 8).float()
    found = []
    for mode in (True, False):
        got = bound(model.train(mode), x, torch.Generator().manual_seed(1))
        assert model.training is mode
        found.append(got.iwae.mean if name == "iwae" else got.mean)
    assert found[0] == found[1]


def test_a_model_is_judged_in_evaluation_mode(digits):
    """What it draws too, which is no bound."""
    how = Evaluation(images=20, importance_samples=2, elbo_samples=2)
    model = randomised(tiny_vae(), 0.1)
    model.mean_samples = True
    model.likelihood.net = nn.Sequential(nn.Dropout(0.5), model.likelihood.net)
    one, two = (judge(model.train(mode), digits, "threshold", how, 0) for mode in (True, False))
    assert one.scores == two.scores
    assert np.array_equal(one.arrays["samples"]["images"], two.arrays["samples"]["images"])


def test_a_model_of_other_images_is_neither_trained_nor_judged(digits, tmp_path):
    model = DDPM(UNet(SHAPE, (8,), 1), cosine_beta(6), SHAPE, 256, "v")
    with pytest.raises(ValueError, match="of 256 grey levels"):
        judge(model, digits, "raw", Evaluation(images=20), 0)
    with pytest.raises(ValueError, match="of 256 grey levels"):
        fit([model], [0], [tmp_path], training_data("raw"), QUICK)
    with pytest.raises(ValueError, match="from 0 to 1, and was given some from 0 to 16"):
        fit([tiny_vae()], [0], [tmp_path], training_data("raw"), QUICK)
    with pytest.raises(ValueError, match="from 0 to 1"):
        judge(tiny_vae(), digits, "raw", Evaluation(images=20), 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("images", "no images to train on"),
        ("validation", "no images to choose weights by"),
        ("levels", "a grey value 16, and levels = 16"),
    ],
)
def test_data_that_teach_nothing_are_refused(part, said, tmp_path):
    data = training_data("threshold")
    wrong = 16 if part == "levels" else images(0)
    data.images[0, 0, 0, 0] = 16
    with pytest.raises(ValueError, match=said):
        fit([tiny_vae()], [0], [tmp_path], replace(data, **{part: wrong}), QUICK)


def test_models_that_cannot_be_trained_are_refused(tmp_path):
    batch, still = tiny_vae(), tiny_vae().requires_grad_(False)
    batch.posterior.net = nn.Sequential(
        nn.Flatten(-3), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
    )
    for model, said in (
        (batch, "posterior.net.2 makes an image's loss one of all images"),
        (still, "no parameters to train"),
        (tiny_vae().double(), r"of torch\.float64, and the images are torch\.float32"),
    ):
        with pytest.raises(ValueError, match=said):
            fit([model], [0], [tmp_path], training_data("threshold"), QUICK)


class Noting(nn.Dropout):
    """Dropout that notes when it drops."""

    def __init__(self):
        super().__init__(0.5)
        self.dropped = []

    def forward(self, x):
        self.dropped.append(self.training)
        return super().forward(x)


def test_dropout_is_of_training_alone_and_of_one_seed(tmp_path):
    models = [tiny_vae(), tiny_vae()]
    for model in models:
        model.likelihood.net = nn.Sequential(model.likelihood.net, Noting())
    data = training_data("threshold")  # 24 images in 3 steps; validation, and its terms
    fit(models[:1], [0], [tmp_path / "0"], data, replace(QUICK, epochs=1, batch_size=8))
    assert models[0].likelihood.net[1].dropped == [True] * 3 + [False] * 2
    with pytest.raises(ValueError, match="train one seed at a time"):
        fit(models, [0, 1], [tmp_path / "0", tmp_path / "1"], data, QUICK)


def test_folders_may_be_words(tmp_path):
    fit([Point()], [0], [str(tmp_path)], training_data(), QUICK)
    assert (tmp_path / "checkpoint").is_dir()


@pytest.mark.parametrize("name", ["gaussian", "flow", "spline", "maf", "resampled", "hierarchical"])
def test_a_prior_is_of_as_many_dimensions_as_it_says(name):
    prior = prior_named(name, 4)
    prior.log_prob(torch.randn(3, 4))
    for dim in (3, 5, 8):
        with pytest.raises((ValueError, RuntimeError)):
            prior.log_prob(torch.randn(3, dim))


@pytest.mark.parametrize("name", ["coupling", "iaf"])
def test_a_flow_posteriors_layers_are_of_its_dimensions(name):
    posterior = posterior_named(name, 4)
    posterior.latent_dim = 5
    h = posterior.encode(torch.rand(3, *SHAPE))
    with pytest.raises(ValueError, match="is of 4 coordinates, and was given 5"):
        posterior.rsample(h, torch.randn(3, 5))


def test_a_mask_of_numbers_is_one_of_truths():
    torch.manual_seed(0)
    net, x = MLP([2, 8, 4]), torch.randn(5, 4)
    truths = torch.tensor([True, False, True, False])
    expected = Coupling(truths, net, Affine()).inverse(x)
    for kind in (torch.long, torch.uint8, torch.float):
        found = Coupling(truths.to(kind), net, Affine()).inverse(x)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("outputs", [1, 2, 3, 6])
def test_an_encoder_gives_a_mean_and_a_deviation_for_each_dimension(outputs):
    encoder = nn.Sequential(nn.Flatten(-3), MLP([64, outputs]))
    with pytest.raises(ValueError, match=f"must give 4 numbers an image, not {outputs}"):
        DiagonalGaussian(encoder, 2).encode(torch.rand(3, *SHAPE))
    with pytest.raises(ValueError, match=f"must give 5 numbers an image, not {outputs}"):
        FullGaussian(encoder, 2).encode(torch.rand(3, *SHAPE))
    if outputs < 4:
        with pytest.raises(ValueError, match="must give 4 numbers an image or more"):
            FlowPosterior(encoder, 2, [nn.Identity()]).encode(torch.rand(3, *SHAPE))


@pytest.mark.parametrize(
    ("likelihood", "wanted", "given"),
    [
        (lambda net: Bernoulli(net, SHAPE), 64, 1),
        (lambda net: ContinuousBernoulli(net, SHAPE, LEVELS), 64, 1),
        (lambda net: Gaussian(net, SHAPE, LEVELS), 64, 1),
        (lambda net: DiscretizedLogisticMixture(net, SHAPE, LEVELS, 2), 384, 6),
        (lambda net: AutoregressiveBernoulli(net, SHAPE, 5, 3), 320, 5),
    ],
)
def test_a_decoder_gives_each_pixel_its_own_numbers(likelihood, wanted, given):
    """One for all would be broadcast."""
    x, z = torch.ones(3, *SHAPE), torch.randn(3, 2)
    likelihood(MLP([2, wanted])).log_prob(x, z)
    with pytest.raises(ValueError, match=f"must give {wanted} numbers an image, not {given}"):
        likelihood(MLP([2, given])).log_prob(x, z)


@pytest.mark.parametrize("part", ["prior", "posterior", "likelihood"])
def test_a_part_that_would_not_be_trained_is_refused(part):
    class Plain:
        latent_dim = 2
        log_prob = sample = encode = rsample = mean = grey = lambda self, *rest: None

    parts = {
        "prior": StandardGaussian(2),
        "posterior": tiny_posterior(),
        "likelihood": Bernoulli(MLP([2, 64]), SHAPE),
    }
    with pytest.raises(TypeError, match=r"Plain is no nn\.Module"):
        VAE(**(parts | {part: Plain()}))  # pyright: ignore


UNHINTED = """
import torch
from torch import nn
from triptych.ddpm import DDPM
from triptych.posteriors import FullGaussian
from triptych.priors.vamp import VampPrior

for make in (
    lambda: VampPrior(FullGaussian(nn.Identity(), 2), (1, 8, 8), 3),
    lambda: DDPM(nn.Identity(), torch.full((6,), 0.1), (2,), None),
):
    try:
        make()
    except (TypeError, ValueError) as error:
        print(error)
"""


def test_what_hints_forbid_is_refused_where_nobody_reads_them():
    """Tests check the hints of every call, programs do not."""
    alone = os.environ | {"JAXTYPING_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UNHINTED], env=alone, capture_output=True, text=True, check=True
    )
    components, vectors = done.stdout.splitlines()
    assert components.endswith("which a FullGaussian does not give; choose DiagonalGaussian")
    assert vectors == "data are [C, H, W], vectors [D, 1, 1], not [2]"


class Constant(nn.Module):
    """A network that gives zeros of some shape."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x, t):
        return x.new_zeros(len(x), *self.shape)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 8, 8), (1, 8), (64,)])
@pytest.mark.parametrize("variance", ["small", "learned"])
def test_a_network_gives_a_number_for_each_pixel(shape, variance, g):
    chain = DDPM(Constant(*shape), cosine_beta(6), SHAPE, LEVELS, "v", variance=variance)
    x, noise = images(3).float(), chain.noise(3, g)
    if (shape, variance) == ((2, 8, 8), "learned"):
        chain.loss(x, noise)
        return
    with pytest.raises(ValueError, match=r"the network must give \[3, [12], 8, 8\], not"):
        chain.loss(x, noise)
    with pytest.raises(ValueError, match="the network must give"):
        chain.sample(3, g)
    if variance == "small":
        vdm = VDM(Constant(*shape), SHAPE, LEVELS)
        with pytest.raises(ValueError, match="the network must give"):
            vdm.loss(x, vdm.noise(3, g))


def test_vectors_are_images_of_many_channels(g):
    assert DDPM(Constant(2, 1, 1), cosine_beta(6), (2, 1, 1), None).sample(4, g).shape[1] == 2


def test_real_numbers_are_not_clipped_unless_asked():
    for levels, clip in ((None, False), (LEVELS, True)):
        assert DDPM(Constant(*SHAPE), cosine_beta(6), SHAPE, levels).clip is clip
        for asked in (True, False):
            made = DDPM(Constant(*SHAPE), cosine_beta(6), SHAPE, levels, clip=asked)
            assert made.clip is asked


def test_integers_are_scaled_as_numbers_are():
    k = torch.tensor([0, 150, 200, 255], dtype=torch.uint8)
    chain = DDPM(Constant(*SHAPE), cosine_beta(6), SHAPE, 256)
    assert torch.equal(chain.scale(k), chain.scale(k.float()))


def test_settings_of_a_chain_lie_in_their_range(g):
    chain = tiny_ddpm()
    for eta in (-0.5, 1.5, float("nan")):
        for sampler in (ddim, dpm_solver):
            with pytest.raises(ValueError, match=r"eta must lie in 0\.\.1"):
                sampler(chain, 2, 3, g, eta=eta)
    for rho in (0.0, -1.0):
        with pytest.raises(ValueError, match="rho must be 1 or more"):
            heun(chain, 2, 3, g, rho=rho)
    for gamma in (0.0, -3.0):
        with pytest.raises(ValueError, match="gamma of min-SNR must be above 0"):
            DDPM(Constant(*SHAPE), cosine_beta(6), SHAPE, LEVELS, min_snr=gamma)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"chains": 1}, {"leapfrog": 0}])
def test_annealing_takes_a_step(settings):
    with pytest.raises(ValueError, match="steps >= 1, chains >= 2 and leapfrog >= 1"):
        Annealing(**settings)


def test_features_are_finite(g):
    f = torch.randn(30, 3, generator=g)
    broken = f.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        moments(broken)
    for pair in ((f, broken), (broken, f)):
        with pytest.raises(ValueError, match="not finite"):
            neighbourhoods(*pair, 3)
    assert moments(f[:, :1]).sigma.shape == (1, 1)


def test_neighbourhoods_are_found_in_double_precision():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(60, 3, generator=g, dtype=torch.float64) + 1e5 for _ in range(2))
    near = neighbourhoods((a - 1e5).float(), (b - 1e5).float(), 3)
    far = neighbourhoods(a.float(), b.float(), 3)
    assert abs(far.density - near.density) < 0.15


class Heavier(DiagonalGaussian):
    """Of another density, e times as high: no density at all, but easily told."""

    def log_prob(self, z, h):
        return super().log_prob(z, h) + 1


def test_a_posterior_derived_from_the_gaussian_is_not_taken_for_it():
    posterior, z = tiny_posterior(), torch.randn(5, 2)
    heavier = Heavier(posterior.net, 2)
    with torch.no_grad():
        h = posterior.encode(torch.rand(7, *SHAPE))
        one, other = (aggregate_log_prob(q, z, h) for q in (posterior, heavier))
    torch.testing.assert_close(other, one + 1)
    assert gaussian_marginals(posterior, h) is h
    assert gaussian_marginals(heavier, h) is None
