"""What is judged: the test images, all of them, as the protocol says."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Binomial
from toys import (
    LEVELS,
    SHAPE,
    built,
    global_generator_untouched,
    randomised,
    tiny_latent_ddpm,
    tiny_pixelflow,
    tiny_vae,
)

from triptych.data import view
from triptych.errors import UserError
from triptych.evaluate import judge as judge_module
from triptych.evaluate import judge_vae
from triptych.evaluate.aggregate import encode_all
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.drawing import enough
from triptych.evaluate.evaluation import Drawing, Evaluation
from triptych.evaluate.fidelity import neighbourhoods
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.evaluate.judge import (
    at_random,
    judge,
    judge_samples,
    refuse_nan,
    sampler,
    sampling_protocol,
)
from triptych.evaluate.judge_latent import draws_of_aggregate
from triptych.evaluate.judge_match import any_draws, match_scores, sample_aggregate
from triptych.evaluate.judge_nearest import copied_score, nearest_score
from triptych.evaluate.judge_samples import from_training
from triptych.evaluate.judge_vae import bound_scores, of_all
from triptych.evaluate.likelihood import Bounds, Estimate
from triptych.evaluate.reconstruct import reconstructions
from triptych.flows.flow import Flow
from triptych.flows.masked import Reshape
from triptych.flows.multiscale import Logit
from triptych.likelihoods import Gaussian
from triptych.nets.mlp import MLP
from triptych.posteriors import GaussianParameters
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.resampled import ResampledPrior
from triptych.protocols import Score
from triptych.samplers import Autoguidance, heun
from triptych.study.build import build
from triptych.study.recipes import recipes_for
from triptych.train import order
from triptych.train.order import Stream, generator_for

QUICK = Evaluation(importance_samples=3, elbo_samples=2, images=70, bound_draws=1, steps=2)


OF_SAMPLES = {"fid", "kid", "precision", "recall", "density", "coverage"}
OF_SAMPLES |= {"class-distance", "confidence", "copied-share"}


class Recording(nn.Module):
    """A feature network that keeps the images it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def features(self, x):
        self.seen.append((x + 1) / 2)
        return described(x)

    def head(self, features):
        return features[:, :10]


class Counted(nn.Module):
    """The same network, and how often it was asked."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x, t):
        self.calls += 1
        return self.net(x, t)


def described(x):
    return torch.cat([x, x.square()], 1).flatten(1)


def features():
    return Features(Recording(), "recording", "0" * 12, None)


@pytest.fixture(params=["vae-flow", "pixelflow", "ddpm"])
def judged(request, digits):
    model, seen = built(request.param), features()
    look = {"vae-flow": "dynamic"}.get(request.param, "raw")
    return request.param, model, seen, judge(model, digits, look, QUICK, 0, seen)


def by_metric(result):
    return {s.metric: s for s in result.scores}


def test_every_score_says_under_which_protocol_it_holds(judged):
    kind, _, _, result = judged
    scores = by_metric(result)
    expected = {"bpd", "nearest-ratio"}
    if kind == "vae-flow":
        expected = {"elbo", "iwae-3", "kl-aggregate", "mutual-information", "energy-distance"}
        expected |= {"effective-samples", "nearest-ratio", "mmd2", "classifier-accuracy"}
        expected |= {"active-units", "reconstruction"}
        assert 1 <= scores["effective-samples"].value <= 3
        assert scores["iwae-3"].protocol["samples"] == 3
        assert scores["elbo"].protocol["view"] == "dynamic"
        assert "null95" in scores["energy-distance"].protocol
    if kind == "pixelflow":
        expected |= {"share-outside", "inverse-error"}
    assert set(scores) == expected | OF_SAMPLES | {"samples-per-second"}
    for score in result.scores:
        assert score.protocol["dataset"] == "digits"
        shown = score.metric in ("share-outside", "nearest-ratio", "samples-per-second")
        about = ("samples", 64) if shown else ("test", 70)
        about = ("samples", 70) if score.metric == "copied-share" else about
        assert (score.protocol["split"], score.protocol["n"]) == about
        # Of more test images than were used these are some.
        assert (score.protocol.get("images") == "at random") == (about == ("test", 70))
        assert score.protocol["view"] in ("dynamic", "raw")
        assert np.isfinite(score.value)


def test_a_frechet_distance_stands_beside_its_floor_n_and_features(judged):
    kind, _, seen, result = judged
    protocol = by_metric(result)["fid"].protocol
    assert protocol["features"] == "recording"
    assert protocol["feature_hash"] == seen.hash
    assert protocol["floor"] > 0
    assert ("sampler" in protocol) == (kind == "ddpm")


def test_samples_in_a_file_are_scored_as_the_models_own(digits):
    """The same ones by `judge` and by `judge_samples`; and real images score what stands beside
    all scores as real."""
    model = built("ddpm")
    how = dataclasses.replace(QUICK, images=len(digits.test_images))
    draw = sampler(model, how, generator_for(0, 0, torch.device("cpu"), stream=Stream.SAMPLES))
    samples = enough(draw(64), draw, len(digits.test_images))
    found = by_metric(judge(model, digits, "raw", how, 0, features()))
    for score in judge_samples(samples, digits, features()):
        # KID is a mean over blocks, which are others in another order.
        rel = 1e-2 if score.metric == "kid" else 1e-6
        assert score.value == pytest.approx(found[score.metric].value, rel=rel), score.metric
        assert score.protocol.items() <= found[score.metric].protocol.items()
    real = grey(from_training(digits, len(digits.test_images)), digits.levels)
    *real_scores, copied = judge_samples(real, digits, features())
    assert (copied.metric, copied.value) == ("copied-share", 1.0)
    for score in real_scores:
        usual = score.protocol.get("floor", score.protocol.get("real"))
        near = {"abs": 2 * score.image_std} if score.metric == "kid" else {"rel": 1e-6}
        assert score.value == pytest.approx(usual, **near), score.metric


@pytest.mark.parametrize("look", ["threshold", "raw"])
def test_samples_in_a_file_are_copies_or_not(look, digits):
    """Binary ones beside binary images: grey ones, all far from these, would look like none."""
    n = len(digits.test_images)
    train, test = (digits.train_images, digits.test_images.roll(1, -1))

    def shown(images):
        return grey(images, digits.levels) if look == "raw" else view(look)(images, 17, None)

    shares = []
    for copies in (0, 60):
        mixed = torch.cat([shown(train[:copies]), shown(test[copies:])])
        score = next(
            s for s in judge_samples(mixed, digits, features()) if s.metric == "copied-share"
        )
        assert (score.protocol["view"], score.protocol["n"]) == (look, n)
        shares.append(score.value)
    assert shares[0] < 0.02
    # Of 64 binary pixels some test images are copies too, and count for a half of these.
    assert shares[1] == pytest.approx(60 / n, abs=0.1 if look == "threshold" else 0.02)


def test_of_more_samples_in_a_file_than_are_judged_any_are_taken(digits):
    """A file may have them class by class: its first third has three classes of ten."""
    in_order = digits.train_images[digits.train_labels.argsort()]
    found = {s.metric: s for s in judge_samples(grey(in_order, digits.levels), digits, features())}
    any_ = at_random(replace_test(digits)).test_images[: len(digits.test_images)]
    usual = {s.metric: s for s in judge_samples(grey(any_, digits.levels), digits, features())}
    assert found["fid"].value < 2 * usual["fid"].value
    assert found["coverage"].value > 0.9 * usual["coverage"].value


def replace_test(data):
    """Training images in the place of test images."""
    return dataclasses.replace(data, test_images=data.train_images, test_labels=data.train_labels)


def test_references_are_grey_test_images_and_floors_grey_training_images(judged, digits):
    """Whatever view the model was trained on: binarized references alone change an FID. They are
    not the first of the file, which may be of other writers than the rest."""
    _, _, seen, _ = judged
    shown = seen.net.seen
    place = {tuple(row): i for i, row in enumerate(digits.test_images.flatten(1).tolist())}
    assert all(x.min() >= 0 and x.max() <= 1 for x in shown)
    at = [place[tuple(row)] for row in (shown[0] * 16).round().int().flatten(1).tolist()]
    assert len(set(at)) == 70
    assert max(at) > 250 > 100 > min(at)
    assert at == [
        place[tuple(row)] for row in at_random(digits).test_images[:70].flatten(1).tolist()
    ]
    train = {tuple(row) for row in digits.train_images.flatten(1).tolist()}
    floor = (shown[1] * 16).round().int().flatten(1).tolist()
    assert len(floor) == 70
    assert all(tuple(row) in train for row in floor)


def test_as_many_samples_as_references_and_the_shown_ones_among_them(judged):
    _, _, seen, result = judged
    samples = seen.net.seen[2]
    assert len(samples) == 70
    shown = torch.tensor(result.arrays["samples"]["images"]).float() / 255
    torch.testing.assert_close(samples[:64], shown, atol=0.5 / 255 + 1e-6, rtol=0)


def test_the_distance_is_that_of_all_the_samples(judged):
    _, _, seen, result = judged
    reference, _, samples = (moments(described(2 * x - 1)) for x in seen.net.seen)
    fid = by_metric(result)["fid"].value
    assert fid == pytest.approx(frechet_distance(samples, reference), rel=1e-5)


def test_what_real_images_score_stands_beside_what_samples_do(judged, digits):
    _, _, seen, result = judged
    scores = by_metric(result)
    test, _, fake = (described(2 * x - 1) for x in seen.net.seen)
    found = neighbourhoods(test.double(), fake.double(), 5)
    assert [scores[name].value for name in found._fields] == pytest.approx(list(found))
    for name in ("precision", "recall", "density", "coverage", "confidence"):
        assert scores[name].protocol["real"] > 0.2
    for name in ("kid", "class-distance"):
        assert np.isfinite(scores[name].protocol["floor"])
    growth = result.arrays["fid-growth"]
    assert growth["n"][-1] == 70
    assert growth["fid"][-1] == pytest.approx(scores["fid"].value)
    assert growth["floor"][-1] == pytest.approx(scores["fid"].protocol["floor"])


def test_fewer_training_images_than_samples_are_no_measure_of_them(digits):
    """FID of 60 is worse than that of 70, and samples would look the better beside it."""
    kept = {f"train_{what}": getattr(digits, f"train_{what}")[:60] for what in ("images", "labels")}
    few = dataclasses.replace(digits, **kept)
    result = judge(built("pixelflow"), few, "raw", QUICK, 0, features())
    scores = by_metric(result)
    assert scores["fid"].protocol["n"] == 70
    for name in ("fid", "precision", "recall", "density", "coverage"):
        assert not {"floor", "real"} & set(scores[name].protocol)
    assert {"floor", "real"} & set(scores["kid"].protocol), "of as many of both"
    assert scores["kid"].protocol["n"] == 60
    growth = result.arrays["fid-growth"]
    assert growth["floor"].shape == growth["n"].shape
    assert np.isnan(growth["floor"]).all()


def test_a_limit_of_the_distance_is_given_where_samples_are_seven_times_the_features(digits):
    few = Features(Recording(), "recording", "0" * 12, None)
    few.net.features = lambda x: described(x)[:, :1]  # and 70 images by ten
    scores = by_metric(judge(built("pixelflow"), digits, "raw", QUICK, 0, few))
    limit = scores["fid-infinity"]
    assert np.isfinite([limit.value, limit.protocol["floor"]]).all()


@pytest.mark.parametrize("n", [2, 10])
def test_few_images_are_judged_by_what_few_can_tell(n, digits):
    how = dataclasses.replace(QUICK, images=n)
    scores = by_metric(judge(built("pixelflow"), digits, "raw", how, 0, features()))
    assert {"fid", "confidence"} <= set(scores)
    assert not {"kid", "coverage", "fid-infinity"} & set(scores)


@pytest.mark.parametrize("n", [2, 19, 20])
def test_a_classifier_is_asked_only_where_it_can_tell(n, digits):
    how = dataclasses.replace(QUICK, images=n)
    scores = by_metric(judge(built("vae-gaussian"), digits, "threshold", how, 0))
    assert ("classifier-accuracy" in scores) == (n >= 20)
    assert {"elbo", "kl-aggregate", "mmd2"} <= set(scores)


@pytest.mark.parametrize(("name", "rounds"), [("vae-gaussian", True), ("vae-logistic", False)])
def test_only_binary_pixels_are_decoded_in_bfloat16(name, rounds, digits, monkeypatch):
    monkeypatch.setattr("triptych.evaluate.judge_vae.bf16_helps", lambda device: True)
    view = "threshold" if rounds else "raw"

    def elbo(bf16):
        how = dataclasses.replace(QUICK, bf16=bf16)
        return by_metric(judge(randomised(built(name), 0.02), digits, view, how, 0))["elbo"].value

    assert (elbo(True) != elbo(False)) == rounds


def test_bounds_are_of_the_test_set_and_of_nothing_else(digits):
    """Spoiling the other parts changes no bound; spoiling the test part does."""
    model = built("vae-gaussian")

    def elbo(data):
        return by_metric(judge(model, data, "threshold", QUICK, 0))["elbo"].value

    swapped = {n: 16 - getattr(digits, n) for n in ("train_images", "validation_images")}
    assert elbo(dataclasses.replace(digits, **swapped)) == elbo(digits)
    assert elbo(dataclasses.replace(digits, test_images=16 - digits.test_images)) != elbo(digits)


def test_all_the_test_images_are_used_when_as_many_are_asked_for(digits):
    how = dataclasses.replace(QUICK, images=10_000)
    scores = by_metric(judge(built("vae-gaussian"), digits, "threshold", how, 0))
    assert scores["elbo"].protocol["n"] == len(digits.test_images) == 360
    assert scores["iwae-3"].protocol["n"] == 360


def test_a_second_judgement_is_the_same(digits):
    first, second = (judge(built("vae-mixture"), digits, "dynamic", QUICK, 3) for _ in range(2))
    assert first.scores == second.scores
    np.testing.assert_array_equal(
        first.arrays["latent"]["posterior"], second.arrays["latent"]["posterior"]
    )


@pytest.mark.parametrize(
    ("name", "look"),
    [("vae-flow", "dynamic"), *((n, "raw") for n in ("pixelflow", "ddpm", "vdm", "latent-ddpm"))],
)
def test_judging_has_random_numbers_of_its_own(name, look, digits, monkeypatch):
    """Bounds and samples share none with each other, with training or with anything outside;
    images, in whatever part of judging, are seen in one way and chosen in one way, whatever the
    model's seed."""
    used, state_of = set(), order.state_of

    def noted(seed, step, stream):
        used.add((stream, seed, step))
        return state_of(seed, step, stream)

    monkeypatch.setattr(order, "state_of", noted)
    model = built(name)
    with global_generator_untouched():
        judge(model, digits, look, QUICK, 3, features())
    of_images = {Stream.VIEWS, Stream.TRAINING_IMAGES}
    of_images |= {Stream.RECONSTRUCTIONS} if name in ("vae-flow", "latent-ddpm") else set()
    of_model = {Stream.BOUNDS, Stream.SAMPLES}
    assert used == {(s, 0, 0) for s in of_images} | {(s, 3, 0) for s in of_model}


def test_bits_per_dimension_have_the_right_sign_and_size(digits):
    """An untrained flow on digits costs a few bits a pixel."""
    score = by_metric(judge(built("pixelflow"), digits, "raw", QUICK, 0))["bpd"]
    assert 3 < score.value < 40
    assert score.mc_std > 0
    assert score.unit == "bits/dim"


def test_a_ddpm_is_sampled_as_asked():
    model, times = built("ddpm"), []
    model.net.register_forward_pre_hook(lambda net, args: times.append(int(args[1][0])))
    for how, expected in (
        (Evaluation(sampler="ddim", steps=3), [5, 2, 0]),
        (Evaluation(sampler="ancestral"), [5, 4, 3, 2, 1, 0]),
    ):
        times.clear()
        x = sampler(model, how, generator_for(0, 0, torch.device("cpu")))(2)
        assert times == expected
        assert x.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("bf16", [True, False])
def test_samples_are_drawn_in_bfloat16_unless_it_is_forbidden(bf16, monkeypatch):
    monkeypatch.setattr("triptych.evaluate.drawing.bf16_helps", lambda device: True)
    model, seen = built("ddpm"), set()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, x, y: seen.add(y.dtype))
    how = Evaluation(steps=2, bf16=bf16)
    x = sampler(model, how, generator_for(0, 0, torch.device("cpu")))(2)
    assert seen == {torch.bfloat16 if bf16 else torch.float32}
    assert x.dtype == torch.float32


def test_eta_reaches_the_sampler():
    def draw(eta):
        how = Evaluation(steps=3, eta=eta)
        return sampler(built("ddpm"), how, generator_for(0, 0, torch.device("cpu")))(2)

    assert torch.equal(draw(1.0), draw(1.0))
    assert not torch.equal(draw(0.0), draw(1.0))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Evaluation(steps=3, eta=0.5), ("ddim", 3, 3, {"eta": 0.5})),
        (
            Evaluation(sampler="dpm-solver++", steps=3, eta=1.0, noise_below=4.0),
            ("dpm-solver++", 3, 3, {"eta": 1.0, "noise_below": 4.0}),
        ),
        (Evaluation(steps=50), ("ddim", 6, 6, {"eta": 0.0})),
        (Evaluation(sampler="ancestral", steps=3), ("ancestral", 6, 6, {})),
        (Evaluation(sampler="heun", steps=4), ("heun", 4, 7, {})),
        (Evaluation(sampler="heun", steps=4, rho=7), ("heun", 4, 7, {"rho": 7})),
        (Evaluation(steps=3, guidance=2.5), ("ddim", 3, 6, {"eta": 0.0, "guidance": 2.5})),
        (Evaluation(sampler="heun", steps=4, guidance=2.0), ("heun", 4, 14, {"guidance": 2.0})),
        (Evaluation(sampler="ancestral", guidance=2.0), ("ancestral", 6, 12, {"guidance": 2.0})),
    ],
)
@pytest.mark.parametrize("clip", [True, False])
def test_the_protocol_says_how_samples_were_really_drawn(how, expected, clip):
    name, steps, evaluations, rest = expected
    said = {"sampler": name, "steps": steps, "evaluations": evaluations} | rest
    model = built("ddpm")
    model.clip = clip
    said["clip"] = "x_0 to [-1, 1]" if clip else "none"
    assert sampling_protocol(model, how) == said


@pytest.mark.parametrize("how", [Evaluation(sampler="heun", steps=4), Evaluation(steps=5)])
def test_evaluations_are_counted_as_they_happen(how):
    model = built("ddpm")
    model.net = Counted(model.net)
    sampler(model, how, generator_for(0, 0, torch.device("cpu")))(2)
    assert model.net.calls == sampling_protocol(model, how)["evaluations"]


def test_samples_and_nothing_else_are_drawn_by_the_model_that_is_given(digits):
    def judged(drawn_by):
        how = dataclasses.replace(QUICK, steps=6)
        return judge(built("ddpm"), digits, "raw", how, 0, None, drawn_by)

    alone, guided = judged(None), judged(randomised(built("ddpm"), 0.1))
    assert by_metric(alone)["bpd"].value == by_metric(guided)["bpd"].value
    assert (alone.arrays["samples"]["images"] != guided.arrays["samples"]["images"]).any()
    near = [by_metric(found)["nearest-ratio"] for found in (alone, guided)]
    assert near[0].value != near[1].value
    assert near[0].protocol["steps"] == 6


class OfOnesOwn(torch.nn.Module):
    """A sampler that no setting describes."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def sample(self, n, generator):
        return heun(self.chain, n, 3, generator)


def test_samples_of_another_sampler_are_not_said_to_be_of_the_one_set(digits):
    model = built("ddpm")
    found = by_metric(judge(model, digits, "raw", QUICK, 0, features(), OfOnesOwn(model)))
    for name in ("fid", "nearest-ratio", "copied-share", "samples-per-second"):
        said = found[name].protocol
        assert said["sampler"] == "OfOnesOwn", name
        assert not {"steps", "evaluations", "eta"} & said.keys(), name


def test_what_another_sampler_shows_is_not_said_to_be_what_the_model_shows(digits):
    """Pixels that are drawn, or means: only a VAE's own samples are known to be one of them."""

    class Drawn(torch.nn.Module):
        def sample(self, n, generator):
            return torch.rand(n, *SHAPE, generator=generator).round()

    found = by_metric(judge(tiny_vae(), digits, "threshold", QUICK, 0, features(), Drawn()))
    assert "pixels" not in found["fid"].protocol
    assert found["fid"].protocol["sampler"] == "Drawn"


def test_the_likelihood_by_the_ode_is_taken_where_it_is_asked_for(digits):
    for name, asked in (("ddpm", 3), ("ddpm-learned", 3), ("pixelflow", 3), ("ddpm", 0)):
        how = dataclasses.replace(QUICK, ode_images=asked, steps=2)
        found = by_metric(judge(built(name), digits, "raw", how, 0))
        assert ("bpd-ode" in found) == (asked > 0 and name != "pixelflow")
        if score := found.get("bpd-ode"):
            assert (score.protocol["n"], score.protocol["solver"]) == (3, "dopri5")
            assert score.unit == "bits/dim"
            assert 0 < score.value < 40
            assert score.image_std > 0


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_trace_of_the_ode_is_the_one_asked_for(trace, digits, monkeypatch):
    asked = []

    def ode_score(chain, x, protocol, g, exact):
        asked.append(exact)
        return Score("bpd-ode", 1.0, "bits/dim", 0.0, protocol)

    monkeypatch.setattr(judge_module, "ode_score", ode_score)
    judge(
        built("ddpm"), digits, "raw", dataclasses.replace(QUICK, ode_images=2, ode_trace=trace), 0
    )
    assert asked == [trace == "exact"]


def test_the_likelihood_by_the_ode_stands_beside_the_bound_of_the_same_images(digits, monkeypatch):
    bound = Estimate(-torch.arange(70.0), 0.1)
    monkeypatch.setattr(judge_module, "ddpm_bound", lambda *asked: bound)
    how = dataclasses.replace(QUICK, steps=2, ode_images=4)
    found = by_metric(judge(built("ddpm"), digits, "raw", how, 0))
    bit = 64 * math.log(2)
    assert found["bpd"].value == pytest.approx(34.5 / bit)
    assert found["bpd-ode"].protocol["bpd"] == pytest.approx(1.5 / bit)


@pytest.mark.parametrize("dequantization", ["uniform", "variational"])
def test_the_log_of_a_mean_is_a_tighter_bound_than_the_mean_of_logs(dequantization, digits):
    how = dataclasses.replace(QUICK, bound_draws=5)
    model = randomised(tiny_pixelflow(dequantization=dequantization), 0.1)
    scores = by_metric(judge(model, digits, "raw", how, 0))
    bound, tighter = scores["bpd"], scores["bpd-iwae-5"]
    assert tighter.value < bound.value
    assert bound.protocol == tighter.protocol
    assert bound.protocol["bound"] == f"{dequantization} dequantization"
    assert (tighter.unit, tighter.protocol["samples"]) == ("bits/dim", 5)
    assert 0 < tighter.mc_std < 0.1


def test_the_error_of_the_inverse_is_the_largest_of_all_pixels(digits, monkeypatch):
    model = built("pixelflow")
    how = dataclasses.replace(QUICK, images=340)
    exact = by_metric(judge(model, digits, "raw", how, 0))["inverse-error"]
    assert 0 <= exact.value < 1e-3
    assert exact.unit == "levels"
    forward = model.flow.forward

    def shifted(z):  # One pixel of one image in the second chunk is off by half a level.
        y, log_det = forward(z)
        if len(y) == 90:
            y[7, 0, 3, 5] += 0.5 / 17
        return y, log_det

    monkeypatch.setattr(model.flow, "forward", shifted)
    found = by_metric(judge(model, digits, "raw", how, 0))["inverse-error"]
    assert found.value == pytest.approx(0.5, abs=1e-3)
    assert found.protocol["n"] == 340


def test_a_flows_temperature_reaches_its_samples_and_their_protocol(digits):
    model = randomised(built("pixelflow"), 0.1)

    def judged(temperature):
        how = dataclasses.replace(QUICK, temperature=temperature)
        return judge(model, digits, "raw", how, 0, features())

    warm, cold = judged(1.0), judged(0.5)
    for metric in ("fid", "share-outside"):
        assert "temperature" not in by_metric(warm)[metric].protocol
        assert by_metric(cold)[metric].protocol["temperature"] == 0.5
    assert by_metric(cold)["bpd"] == by_metric(warm)["bpd"]
    g = generator_for(0, 0, torch.device("cpu"), stream=Stream.SAMPLES)
    expected = model.flow(0.5 * model.flow.base.sample(64, g))[0]
    shown = torch.tensor(cold.arrays["samples"]["images"]).float() * 16 / 255
    close = (17 * expected).floor().clamp(0, 16)
    assert ((shown - close).abs() < 0.1).float().mean() > 0.99  # All but what bfloat16 rounds.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": -5}, "Evaluation: images = -5 is wrong"),
        ({"importance_images": 1}, "importance_images = 1 is wrong"),
        ({"ais_steps": 0}, "ais_steps = 0 is wrong"),
        (
            {"guidance": 2.0},
            "guidance = 2 is asked for, .* with 1; give drawn_by = sampling_",
        ),
    ],
)
def test_settings_that_cannot_be_or_would_not_hold_are_refused(settings, said, digits):
    with pytest.raises(UserError, match=said):
        judge(built("ddpm"), digits, "raw", dataclasses.replace(QUICK, **settings), 0)


def test_a_chain_that_is_guided_is_not_told_of_as_one_that_is_not(digits):
    model, guided = built("ddpm"), built("ddpm")
    guided.net = Autoguidance(guided.net, built("ddpm").net, 1.5)
    with pytest.raises(UserError, match=r"guidance = 1 is asked .* with 1\.5"):
        judge(model, digits, "raw", QUICK, 0, drawn_by=guided)


def test_what_is_said_of_latent_ddpms_holds_for_those(digits):
    how = dataclasses.replace(QUICK, latent=Drawing(sampler="heun", steps=3))
    for name, expected in (("latent-ddpm", "heun"), ("ddpm", QUICK.sampler)):
        scores = by_metric(judge(built(name), digits, "raw", how, 0, features()))
        assert scores["fid"].protocol["sampler"] == expected


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (255 * torch.rand(9, 1, 8, 8), r"grey values of 0 to 1, not [\d.]+ to 25\d"),
        (torch.rand(9, 1, 8, 9), r"float32 \[n, 1, 8, 8\], not torch.float32 \[9, 1, 8, 9\]"),
        (torch.rand(9, 1, 8, 8).double(), "not torch.float64"),
        (torch.rand(1, 1, 8, 8), r"not torch.float32 \[1, 1, 8, 8\]"),
    ],
)
def test_samples_that_are_no_grey_images_are_refused(samples, said, digits):
    with pytest.raises(UserError, match=said):
        judge_samples(samples, digits, features())


@pytest.mark.parametrize(("name", "view"), [("vae-gaussian", "threshold"), ("ddpm", "raw")])
def test_a_temperature_is_refused_of_what_has_none(name, view, digits):
    with pytest.raises(UserError, match=r"temperature = 0\.5 applies to a pixel flow.*choose 1"):
        judge(built(name), digits, view, dataclasses.replace(QUICK, temperature=0.5), 0)


def test_pixels_sampled_outside_the_range_are_counted(digits):
    score = by_metric(judge(built("pixelflow"), digits, "raw", QUICK, 0))["share-outside"]
    assert 0 <= score.value <= 1
    assert score.protocol["split"] == "samples"


def test_pixels_beyond_the_range_are_all_counted():
    """Far out on the base's positive side the sigmoid saturates beyond 1 by the logit's margin."""
    model = built("pixelflow")
    model.flow = Flow(StandardGaussian(64), [Reshape([64], SHAPE), Logit(0.05)])
    g = torch.Generator().manual_seed(0)
    for value, share in ((40.0, 1.0), (0.0, 0.0), (-40.0, 1.0)):
        model.flow.base.sample = lambda n, generator, v=value: torch.full((n, 64), v)
        assert model.share_outside(3, g).tolist() == [share] * 3


def test_annealing_is_scored_where_it_is_asked_for(digits):
    how = dataclasses.replace(QUICK, ais_images=3, ais_steps=4, ais_chains=6, ais_leapfrog=2)
    scores = by_metric(judge(built("vae-flow"), digits, "threshold", how, 0))
    ais, width = scores["ais"], scores["ais-bracket"]
    asked = {"n": 3, "samples": 6, "steps": 4, "leapfrog": 2}
    assert ais.protocol | asked | {"split": "test"} == ais.protocol
    assert width.protocol | asked | {"split": "samples"} == width.protocol
    assert scores["elbo"].value - 3 < ais.value < 0
    assert width.value > 0


def test_the_error_of_a_bracket_is_that_of_the_mean_of_its_widths(digits, monkeypatch):
    lower, upper = torch.zeros(4), torch.tensor([0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(judge_vae, "bracket", lambda *asked: (lower, upper))
    how = dataclasses.replace(QUICK, ais_images=4, ais_steps=2, ais_chains=2, ais_leapfrog=1)
    score = by_metric(judge(built("vae-gaussian"), digits, "threshold", how, 0))["ais-bracket"]
    assert score.value == pytest.approx(0.25)
    assert score.mc_std == pytest.approx(upper.std().item() / 2)


def test_the_error_of_a_density_that_is_itself_estimated_is_in_every_score_that_has_it(
    digits, monkeypatch
):
    how = dataclasses.replace(QUICK, ais_images=2, ais_steps=2, ais_chains=2)
    model, found = built("vae-resampled"), []
    for std in (0.0, 7.0):
        monkeypatch.setattr(ResampledPrior, "log_prob_std", lambda prior, z, std=std: std)
        found.append(by_metric(judge(model, digits, "threshold", how, 0)))
    without, with_it = found
    moved = {name for name, s in with_it.items() if s.mc_std != without[name].mc_std}
    assert moved == {"elbo", "iwae-3", "ais", "kl-aggregate"}
    for name in moved:
        assert with_it[name].mc_std == pytest.approx(math.hypot(without[name].mc_std, 7.0))


def test_a_vae_on_the_integers_has_bits_from_its_elbo(digits):
    recipe = recipes_for("digits")["vae-logistic"]
    scores = by_metric(judge(build(recipe.model, SHAPE, LEVELS), digits, "raw", QUICK, 0))
    elbo, bpd = scores["elbo"], scores["bpd"]
    assert bpd.value == pytest.approx(-elbo.value / 64 / math.log(2))
    assert bpd.mc_std == pytest.approx(elbo.mc_std / 64 / math.log(2))
    assert bpd.protocol["bound"] == "ELBO"
    assert 1 < bpd.value < 20


class LikeIntegers(nn.Module):
    """A likelihood of one's own: binomial, so a probability of the integers 0 .. 16."""

    of_integers = True

    def __init__(self, net):
        super().__init__()
        self.net = net

    def counts(self, z):
        return Binomial(16, logits=self.net(z))

    def log_prob(self, x, z):
        return self.counts(z).log_prob(x.flatten(-3)).sum(-1)

    def mean(self, z):
        return self.net(z).sigmoid().unflatten(-1, SHAPE)

    def sample(self, z, generator=None):
        u = torch.rand(16, *z.shape[:-1], 64, generator=generator)
        return (u < self.net(z).sigmoid()).sum(0).unflatten(-1, SHAPE).float()

    def grey(self, x):
        return x / 16


def test_nats_of_grey_values_say_whether_they_are_of_a_density(digits):
    grey = tiny_vae("gaussian")
    grey.likelihood = Gaussian(MLP([2, 64]), (1, 8, 8), 17)
    pairs = ((built("vae-logistic"), "of integers"), (grey, "density of grey values"))
    for model, p in pairs:
        elbo = by_metric(judge(model, digits, "raw", QUICK, 0))["elbo"]
        assert elbo.protocol["p"] == p


def test_a_probability_of_integers_of_ones_own_has_bits_too(digits):
    model = tiny_vae("gaussian")
    model.likelihood = LikeIntegers(MLP([2, 64]))
    scores = by_metric(judge(model, digits, "raw", QUICK, 0))
    elbo, bpd = scores["elbo"], scores["bpd"]
    assert elbo.protocol["p"] == "of integers"
    assert "p" not in bpd.protocol  # bits are of integers in any case
    assert bpd.value == pytest.approx(-elbo.value / 64 / math.log(2))


def test_each_shown_sample_comes_with_its_nearest_training_image(judged, digits):
    kind, _, _, result = judged
    shown, near = (torch.tensor(result.arrays[n]["images"]) / 255 for n in ("samples", "nearest"))
    tested = at_random(digits).test_images[:64]
    train, test = digits.train_images / 16, tested / 16
    if kind == "vae-flow":  # draws pixels, of images that it sees drawn
        noise = generator_for(0, 0, torch.device("cpu"), stream=Stream.VIEWS)
        train, test = (train > 0.5).float(), view("dynamic")(tested, 17, noise)
    apart = (shown[:, None] - train[None]).flatten(2).norm(dim=2)
    exact = apart.min(1).values
    reached = (shown - near).flatten(1).norm(dim=1)
    torch.testing.assert_close(reached, exact, atol=0.03, rtol=0)
    assert (near[:, None] - train[None]).flatten(2).norm(dim=2).min(1).values.max() < 0.03
    distance = torch.tensor(result.arrays["nearest"]["distance"])
    torch.testing.assert_close(distance, exact, atol=0.03, rtol=0)
    usual = (test[:, None] - train[None]).flatten(2).norm(dim=2).min(1).values
    ratio = by_metric(result)["nearest-ratio"].value
    assert ratio == pytest.approx((exact.mean() / usual.mean()).item(), rel=0.01)


def test_a_few_copies_are_seen_among_all_samples(digits):
    """Of other images, which are as far from the training images as any, none."""
    others = digits.validation_images / 16
    honest = copied_score(built("ddpm"), others, digits, "raw", {})
    assert honest.value < 0.01 + 3 * honest.image_std
    assert honest.mc_std < honest.image_std, "the test images, which all seeds share, are in it"
    assert 0.01 < honest.protocol["real"] < 0.02  # a quantile of so few images
    copies = torch.cat([others[12:], digits.train_images[:12] / 16])
    found = copied_score(built("ddpm"), copies, digits, "raw", {})
    assert found.value - honest.value == pytest.approx(12 / len(others), abs=0.01)


@pytest.mark.parametrize("broken", ["value", "mc_std", "image_std"])
def test_a_score_of_which_any_number_is_not_finite_is_refused(broken):
    whole = Score("elbo", -1.0, "nats", 0.1, {}, 0.2)
    refuse_nan([whole])
    with pytest.raises(UserError, match=r"^bpd: not finite on the test images"):
        refuse_nan([whole, dataclasses.replace(whole, metric="bpd", **{broken: math.inf})])


def test_samples_that_are_no_numbers_are_refused_in_a_sentence(digits):
    model = built("ddpm")
    model.grey = lambda x: torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 3, torch.nan, x)
    with pytest.raises(UserError, match="2 of 70 samples hold numbers that are not finite"):
        judge(model, digits, "raw", QUICK, 0, features())


@pytest.mark.parametrize("broken", [torch.nan, -torch.inf])
def test_a_bound_that_is_no_number_is_refused_in_a_sentence(broken, digits):
    model = built("vae-flow")
    exact = model.log_pz
    model.log_pz = lambda z, draws: exact(z, draws) + torch.where(z[..., 0] > 1, broken, 0.0)
    with pytest.raises(UserError, match=r"elbo, iwae-3.*not finite.*train again with a lower"):
        judge(model, digits, "threshold", QUICK, 0)


def test_a_bound_says_of_how_many_images_its_weights_are_unreliable():
    """K of 1,000 has a threshold of 1 - 1 / log10(K) = 2/3."""
    ones = Estimate(torch.ones(4), 0.1)
    bounds = Bounds(
        ones, ones, torch.ones(4), torch.tensor([0.1, 0.6, 0.7, 2.0]), torch.ones(3), 0.1
    )
    how = dataclasses.replace(QUICK, importance_samples=1000)
    found = {s.metric: s for s in bound_scores(ones, bounds, how, {"n": 4})}
    assert found["unreliable-share"].value == 0.5
    bounds = bounds._replace(k_hat=torch.full((4,), torch.nan))
    assert "unreliable-share" not in {s.metric for s in bound_scores(ones, bounds, how, {"n": 4})}


def one_each(model, x, g):
    h = model.autoencoder.posterior.encode(x)
    return sample_aggregate(model.autoencoder, h, len(x), g)


@pytest.mark.parametrize("look_at", [reconstructions, draws_of_aggregate, one_each])
def test_what_is_seen_of_the_posterior_are_normal_draws_of_it(look_at, digits, g):
    model, seen = built("latent-ddpm"), []
    posterior = model.autoencoder.posterior
    rsample = posterior.rsample
    posterior.rsample = lambda h, eps: seen.append(eps) or rsample(h, eps)
    with global_generator_untouched():
        look_at(model, digits.train_images[:1000].float(), g)
    eps = torch.cat(seen)
    assert eps.shape == (1000, 2)
    assert eps.mean().abs() < 0.1
    assert eps.std() == pytest.approx(1, abs=0.08)


def test_a_bound_of_some_images_stands_for_all(digits):
    """Their gain over the ELBO is added to that of all."""
    model, how = built("vae-flow"), dataclasses.replace(QUICK, elbo_samples=40)
    whole = by_metric(judge(model, digits, "threshold", how, 0))
    some = dataclasses.replace(how, importance_images=20)
    part = by_metric(judge(model, digits, "threshold", some, 0))
    assert part["iwae-3"].protocol == whole["iwae-3"].protocol | {"importance_images": 20}
    assert part["effective-samples"].protocol["n"] == 20
    assert part["iwae-3"].value > part["elbo"].value
    drawn = part["iwae-3"].image_std ** 2 - whole["iwae-3"].image_std ** 2
    assert drawn > 0
    error = math.hypot(part["iwae-3"].mc_std, whole["iwae-3"].mc_std, drawn**0.5)
    assert part["iwae-3"].value == pytest.approx(whole["iwae-3"].value, abs=4 * error)


def test_the_images_that_a_bound_was_taken_of_are_in_the_error_of_the_images():
    """Another draw of all images, and of those among them, moves the bound by as much; the error of
    the estimator does not know of it."""
    values, errors = [], []
    for _ in range(2000):
        elbo, gain = -100 + 3 * torch.randn(60), 2 + torch.randn(60)
        few = torch.arange(15)
        exact = [Estimate(v, 0.25) for v in (elbo, elbo[few], (elbo + gain)[few])]
        bounds = Bounds(exact[1], exact[2], few, few, few, 0.25)
        score = of_all(exact[0], bounds, 9, {})
        assert score.mc_std == pytest.approx(0.25 * 2**0.5)
        values.append(score.value)
        errors.append(score.image_std**2)
    assert torch.tensor(errors).mean().sqrt().item() == pytest.approx(np.std(values), rel=0.06)


def test_a_bound_that_was_taken_of_all_images_is_its_own_mean():
    elbo, again, iwae = (Estimate(torch.randn(9), 0.25) for _ in range(3))
    score = of_all(elbo, Bounds(again, iwae, *torch.zeros(3, 9), 0.0), 7, {"view": "raw"})
    assert (score.value, score.mc_std, score.image_std) == (iwae.mean, 0.25, iwae.image_std)
    assert score.protocol == {"view": "raw", "samples": 7}


def test_the_elbo_is_reconstruction_less_the_two_parts_of_the_rate(digits):
    scores = by_metric(judge(built("vae-flow"), digits, "threshold", QUICK, 0))
    surgery = ("reconstruction", "mutual-information", "kl-aggregate")
    reconstruction, information, kl = (scores[name].value for name in surgery)
    assert reconstruction - information - kl == pytest.approx(scores["elbo"].value, rel=1e-6)
    assert scores["elbo"].value < reconstruction < 0


def test_the_error_of_the_reconstruction_is_that_of_images(digits, g):
    """Whose bounds differ by many nats, however well each is known."""
    model, x = built("vae-flow"), view("threshold")(digits.test_images, 17, None)
    elbo = Estimate(20 * torch.randn(len(x)) - 100, 0.01)
    protocol = {"view": "threshold", "n": len(x)}
    found, *_ = match_scores(model, encode_all(model, x), elbo, protocol, g)
    assert found.metric == "reconstruction"
    assert found.image_std == pytest.approx(20 / len(x) ** 0.5, rel=0.15)


def test_draws_of_q_are_of_any_images_not_one_of_each(g):
    model = tiny_vae()
    h = GaussianParameters(torch.arange(500.0)[:, None].expand(-1, 2), torch.full((500, 2), -20.0))
    of = any_draws(model, h, 500, g)[:, 0].round().unique()
    assert len(of) == pytest.approx(500 * (1 - math.exp(-1)), rel=0.1)


def distance_ratio(*given) -> float:
    score, _ = nearest_score(*given, {})
    assert score is not None
    return score.value


def test_where_all_test_images_are_training_images_none_can_be_nearer(digits):
    same = dataclasses.replace(digits, test_images=digits.train_images[: len(digits.test_images)])
    x = digits.validation_images[:64] / 16
    score, arrays = nearest_score(built("ddpm"), x, same, "raw", {})
    assert score is None
    assert len(arrays["distance"]) == 64


@pytest.mark.parametrize("look", ["threshold", "dynamic"])
def test_drawn_pixels_do_not_hide_that_images_are_repeated(look, digits):
    noise = generator_for(1, 0, torch.device("cpu"))
    names = ("train_images", "validation_images", "test_images")
    sharp = {n: torch.where(getattr(digits, n) > 8, 15, 1).byte() for n in names}
    data, model = dataclasses.replace(digits, **sharp), built("vae-flow")
    repeated, fresh = (
        distance_ratio(model, view(look)(images[:64], 17, noise), data, look)
        for images in (data.train_images, data.validation_images)
    )
    assert repeated < 0.9 * fresh
    assert fresh == pytest.approx(1, abs=0.15)


def test_means_are_set_beside_means(digits):
    """They are smooth, and so nearer to any image, or to none: here those of an untrained VAE."""
    model = randomised(built("vae-flow"), 0.1)
    noise = generator_for(1, 0, torch.device("cpu"))
    x = view("dynamic")(digits.validation_images, 17, noise)
    fresh = reconstructions(model, x, noise)
    ratios = []
    for model.mean_samples in (True, False):
        score, _ = nearest_score(model, fresh, digits, "dynamic", {})
        assert score is not None
        ratios.append(score.value)
        assert ("beside" in score.protocol) == model.mean_samples
    assert ratios[0] == pytest.approx(1, abs=0.05)
    assert abs(ratios[1] - 1) > 0.2


@pytest.mark.parametrize(("name", "look"), [("vae-flow", "dynamic"), ("latent-ddpm", "raw")])
def test_test_images_are_kept_with_their_reconstructions(name, look, digits):
    """As the model sees them; where q(z|x) has no width, E[x|z] is that of its mean."""
    model = randomised(built(name), 0.3)
    vae = model.autoencoder if name == "latent-ddpm" else model
    encode = vae.posterior.encode
    vae.posterior.encode = lambda x: GaussianParameters(
        mu := encode(x).mu, torch.full_like(mu, -10)
    )
    found = judge(model, digits, look, QUICK, 0).arrays["reconstructions"]
    noise = generator_for(0, 0, torch.device("cpu"), stream=Stream.VIEWS)
    x = view(look)(at_random(digits).test_images[:16], 17, noise)
    shown = x if look == "dynamic" else x / 16
    np.testing.assert_array_equal(found["images"], (255 * shown).round().byte().numpy())
    with torch.no_grad():
        means = vae.likelihood.mean(encode(x).mu)
    np.testing.assert_allclose(found["means"], 255 * means.numpy(), atol=1)


def test_how_images_are_drawn_changes_nothing_of_what_a_chain_has_learned_of_the_latents(digits):
    model = randomised(built("latent-ddpm"), 0.3)
    few = dataclasses.replace(QUICK, sampler="dpm-solver++", steps=5, rho=7.0)
    noisy = dataclasses.replace(few, eta=1.0, noise_below=9.0)
    one, other = (judge(model, digits, "raw", how, 0) for how in (few, noisy))
    tests = ("classifier-accuracy", "energy-distance", "mmd2")
    assert [by_metric(one)[m] for m in tests] == [by_metric(other)[m] for m in tests]
    assert by_metric(one)["mmd2"].protocol["eta"] == 1
    np.testing.assert_array_equal(one.arrays["latent"]["chain"], other.arrays["latent"]["chain"])
    assert (one.arrays["samples"]["images"] != other.arrays["samples"]["images"]).any()


@pytest.mark.parametrize(
    ("name", "pixels"), [("vae-flow", "drawn"), ("latent-ddpm", "means"), ("ddpm", None)]
)
def test_a_fid_says_whether_pixels_were_drawn(name, pixels, digits):
    look = "threshold" if name == "vae-flow" else "raw"
    scores = by_metric(judge(built(name), digits, look, QUICK, 0, features()))
    for metric in ("fid", "samples-per-second", "copied-share"):
        assert scores[metric].protocol.get("pixels") == pixels


def test_in_two_dimensions_the_manifold_shows_the_mean_at_each_place(digits):
    model = randomised(built("vae-flow"), 0.1)
    arrays = judge(model, digits, "threshold", QUICK, 0, None).arrays
    grid = arrays["manifold"]
    assert grid["images"].shape == (15, 15, 1, 8, 8)
    left, top = torch.tensor(grid["x"][:1]), torch.tensor(grid["y"][-1:])
    assert grid["x"][0] < grid["x"][-1]
    corner = model.likelihood.mean(torch.stack([left, top], -1))[0]
    torch.testing.assert_close(
        torch.tensor(grid["images"][0, 0]) / 255, corner.detach(), atol=1 / 255, rtol=0
    )
    assert arrays["growth"]["k"].tolist() == [1, 2, 3]
    assert arrays["growth"]["iwae"].shape == (3,)
    assert arrays["units"]["activity"].shape == arrays["divergence"]["nats"].shape == (2,)


def test_a_gpu_may_not_round_what_is_measured(digits, monkeypatch):
    seen = []

    def interrupted(*_):
        seen.append(torch.backends.cudnn.allow_tf32)
        raise InterruptedError

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(judge_module, "judge_model", interrupted)
    with pytest.raises(InterruptedError):
        judge(built("pixelflow"), digits, "raw", QUICK, 0)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


def test_a_latent_space_of_one_dimension_is_judged_without_its_plane(digits):
    how = Evaluation(importance_samples=3, elbo_samples=2, images=20)
    for model, look in ((tiny_vae(dim=1), "threshold"), (tiny_latent_ddpm(dim=1), "raw")):
        found = judge(model, digits, look, how, 0)
        assert {"elbo", "mmd2"} & by_metric(found).keys()
        assert "latent" not in found.arrays


def test_a_model_in_double_precision_is_refused(digits):
    with pytest.raises(UserError, match=r"parameters of torch\.float64; judge model\.float\(\)"):
        judge(tiny_vae().double(), digits, "threshold", Evaluation(images=20), 0)


def test_a_part_of_the_images_is_said_to_be_drawn_at_random(digits, monkeypatch):
    monkeypatch.setattr("triptych.evaluate.judge_flow.INVERTED", 5)
    how = dataclasses.replace(QUICK, images=len(digits.test_images))
    scores = by_metric(judge(built("pixelflow"), digits, "raw", how, 0))
    assert scores["inverse-error"].protocol["n"] == 5
    assert scores["inverse-error"].protocol["images"] == "at random"
