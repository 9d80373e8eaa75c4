"""A word in a recipe builds the part that it names, of which the report then tells."""

from collections import Counter

import pytest
import torch
from torch.nn import Linear

from triptych.ddpm import DDPM
from triptych.objectives import BetaELBO, ImportanceWeighted
from triptych.schedules import linear_beta
from triptych.study.build import build
from triptych.study.describe import describe_flow
from triptych.study.recipes import override, recipes_for
from triptych.vdm import VDM

SHAPE, LEVELS = (1, 8, 8), 17


def parts(module) -> Counter:
    """How many modules of each class it is made of, and maps of coordinates."""
    modules = list(module.modules())
    maps = [m.f for m in modules if hasattr(m, "f")]
    return Counter(type(part).__name__ for part in (*modules, *maps))


def made(name="vae-gaussian", **settings):
    return build(override(recipes_for("digits")[name], **settings).model, SHAPE, LEVELS)


@pytest.mark.parametrize(
    ("prior", "has", "lacks"),
    [
        ("gaussian", {"StandardGaussian": 1}, "Flow"),
        ("mixture", {"MixtureOfGaussians": 1}, "StandardGaussian"),
        ("flow", {"Flow": 1, "Affine": 3}, "RationalQuadratic"),
        ("spline", {"Flow": 1, "RationalQuadratic": 3}, "Affine"),
        ("maf", {"Flow": 1, "Autoregressive": 3}, "Coupling"),
        ("vamp", {"VampPrior": 1}, "StandardGaussian"),
        ("resampled", {"ResampledPrior": 1, "StandardGaussian": 1}, "VampPrior"),
        ("hierarchical", {"TwoLevelPrior": 1, "StandardGaussian": 1}, "VampPrior"),
        ("hierarchical-vamp", {"TwoLevelPrior": 1, "VampPrior": 1}, "StandardGaussian"),
    ],
)
def test_a_prior(prior, has, lacks):
    vae = made(f"vae-{prior}", couplings=3)
    found = parts(vae.prior)
    assert has.items() <= found.items()
    assert found[lacks] == 0
    assert ("TwoLevelPosterior" in parts(vae.posterior)) == ("TwoLevelPrior" in has)


@pytest.mark.parametrize(
    ("posterior", "has"),
    [
        ("gaussian", {"DiagonalGaussian": 1}),
        ("full", {"FullGaussian": 1}),
        ("coupling", {"FlowPosterior": 1, "Coupling": 3}),
        ("iaf", {"FlowPosterior": 1, "Inverse": 3, "Autoregressive": 3}),
    ],
)
def test_a_posterior(posterior, has):
    assert has.items() <= parts(made(posterior=posterior, posterior_layers=3).posterior).items()


@pytest.mark.parametrize(
    ("network", "encoder", "decoder"),
    [
        ("mlp", "MLP", "MLP"),
        ("gated", "GatedMLP", "GatedMLP"),
        ("residual", "ResidualEncoder", "ResidualDecoder"),
    ],
)
def test_a_network(network, encoder, decoder):
    vae = made(network=network)
    networks = {"MLP", "GatedMLP", "ResidualEncoder", "ResidualDecoder"}
    assert networks & parts(vae.posterior).keys() == {encoder}
    assert networks & parts(vae.likelihood).keys() == {decoder}


def test_an_objective():
    assert made().objective is None
    assert vars(made(beta=0.5, kl_warmup=0.1).objective) == vars(BetaELBO(0.5, 0.1))
    assert vars(made(kl_warmup=0.1).objective) == vars(BetaELBO(1.0, 0.1))
    asked = made(objective="iwae", iwae_samples=7, doubly=False).objective
    assert vars(asked) == vars(ImportanceWeighted(7, False))


@pytest.mark.parametrize(
    ("settings", "has", "lacks"),
    [
        ({}, {"ConvNet", "Affine"}, "RationalQuadratic"),
        ({"network": "patch"}, {"PatchNet"}, "ConvNet"),
        ({"blocks": 2}, {"ResidualConvNet"}, "ConvNet"),
        ({"network": "mlp"}, {"MLP"}, "ConvNet"),
        ({"coupling": "spline"}, {"RationalQuadratic"}, "Affine"),
        ({"dequantization": "variational"}, {"VariationalDequantization"}, "RasterAutoregressive"),
        (
            {"dequantization": "uniform", "autoregressive_layers": 1},
            {"RasterAutoregressive"},
            "VariationalDequantization",
        ),
    ],
)
def test_a_pixel_flow(settings, has, lacks):
    found = parts(made("pixelflow", **settings))
    assert has <= found.keys()
    assert found[lacks] == 0


def test_a_masked_flow_has_the_hidden_layers_that_the_report_tells_of():
    config = override(recipes_for("digits")["pixelflow"], network="mlp", width=24).model
    assert "MLPs of 24-24 hidden units" in describe_flow(config)
    hidden = [m.out_features for m in build(config, SHAPE, LEVELS).modules() if type(m) is Linear]
    assert hidden.count(24) == 2 * config.steps


@pytest.mark.parametrize(("variance", "outputs"), [("small", 1), ("large", 1), ("learned", 2)])
def test_a_learned_variance_is_one_more_output_of_the_network(variance, outputs):
    net = made("ddpm", variance=variance, widths=[8], blocks=1).net
    assert net(torch.zeros(2, *SHAPE), torch.zeros(2)).shape == (2, outputs, 8, 8)


def test_a_chain_is_of_its_schedule_and_prediction():
    small = {"widths": [8], "blocks": 1, "timesteps": 7}
    chain = made("ddpm", **small, schedule="linear", prediction="eps", min_snr=0.5)
    asked = DDPM(chain.net, linear_beta(7), SHAPE, LEVELS, "eps", min_snr=0.5)
    assert chain.prediction == "eps"
    for name, value in asked.named_buffers():
        torch.testing.assert_close(chain.get_buffer(name), value)
    learned = made("ddpm", **small, schedule="learned", prediction="eps")
    assert (type(learned), learned.timesteps, learned.prediction) == (VDM, 7, "eps")
    latent = made("latent-ddpm", timesteps=7, schedule="linear", prediction="eps").ddpm
    assert (latent.prediction, latent.clip) == ("eps", False)
    torch.testing.assert_close(latent.sqrt_alpha_bar, asked.sqrt_alpha_bar)
