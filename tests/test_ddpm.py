import itertools
import math
import subprocess
import sys
from functools import partial

import mpmath
import pytest
import torch
from torch import nn
from toys import SHAPE, images, randomised, tiny_ddpm

from triptych.ddpm import DDPM
from triptych.maths import log_normal_mass
from triptych.samplers import (
    SAMPLERS,
    Autoguidance,
    ddim,
    dpm_solver,
    exponential_integral,
    heun,
    noise_levels,
    times_even_in_noise,
    times_even_in_t,
    unipc,
)
from triptych.schedules import cosine_beta, linear_beta

SMALL = (1, 2, 2)


class Net(nn.Module):
    """Something that depends on the image and on the time, and remembers the times."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, x, t):
        self.times.append(t)
        return (0.7 * x + 0.1).sin() * (1 + t.to(x.dtype) / 10).view(-1, 1, 1, 1)


class Twice(Net):
    """The same, and beside it something to set the variance by."""

    def forward(self, x, t):
        return torch.cat([super().forward(x, t), (1.3 * x - t.view(-1, 1, 1, 1)).cos()], 1)


class Says(nn.Module):
    """Always the same answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t):
        return self.answer


class Towards(nn.Module):
    """The v-prediction that makes x_0_hat a given image."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, x_t, t):
        a, s = (self.model[n][t][:, None, None, None] for n in ("a", "s"))
        return (a * x_t - self.target) / s


def aiming_at(target, levels, clip=False, T=8):
    model = DDPM(Towards(target), cosine_beta(T), target.shape[-3:], levels, "v", clip)
    model.net.model = {"a": model.sqrt_alpha_bar, "s": model.sqrt_one_minus_alpha_bar}
    return model


def chain(
    T=8,
    prediction="eps",
    clip=True,
    schedule=linear_beta,
    shape=SMALL,
    min_snr=None,
    variance="small",
):
    net = Twice() if variance == "learned" else Net()
    return DDPM(net, schedule(T), shape, 17, prediction, clip, min_snr, variance)


# --- the schedule and the step, against diffusers ---


def peer(model, beta, kind="DDPMScheduler", **settings):
    diffusers = pytest.importorskip("diffusers")
    names = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
    scheduler = getattr(diffusers, kind)(
        num_train_timesteps=len(beta),
        trained_betas=beta.tolist(),
        prediction_type=names[model.prediction],
        clip_sample=model.clip,
        **settings,
    )
    scheduler.alphas_cumprod = (1 - beta).cumprod(0)
    scheduler.betas, scheduler.alphas = beta, 1 - beta
    return scheduler


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [linear_beta, cosine_beta])
def test_the_schedule_is_diffusers(schedule):
    beta = schedule(50)
    model = DDPM(Net(), beta, SMALL, 17)
    scheduler = peer(model, beta, variance_type="fixed_small")
    alpha_bar = scheduler.alphas_cumprod
    torch.testing.assert_close(model.sqrt_alpha_bar**2, alpha_bar)
    torch.testing.assert_close(model.sqrt_one_minus_alpha_bar**2, 1 - alpha_bar)
    variance = torch.stack([scheduler._get_variance(t) for t in range(1, 50)])
    torch.testing.assert_close((2 * model.log_sigma_small[1:]).exp(), variance)
    assert model.alpha_bar_T == pytest.approx(alpha_bar[-1].item())


def test_the_linear_schedule_is_ho_et_als():
    beta = linear_beta(1000)
    torch.testing.assert_close(beta, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def test_the_cosine_schedule_is_diffusers():
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    theirs = scheduling.betas_for_alpha_bar(100).double()
    torch.testing.assert_close(cosine_beta(100), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", [linear_beta, cosine_beta])
@pytest.mark.parametrize("T", [50, 200, 1000])
def test_every_schedule_ends_in_noise(schedule, T):
    beta = schedule(T)
    assert ((beta > 0) & (beta < 1)).all()
    assert (1 - beta).prod() < 1e-3


@pytest.mark.usefixtures("float64")
def test_posterior_variance_is_not_beta():
    beta = linear_beta(8)
    model = DDPM(Net(), beta, SMALL, 17)
    assert (model.log_sigma_small < model.log_sigma_large).all()
    torch.testing.assert_close((2 * model.log_sigma_large).exp(), beta)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_step_to_levels_has_the_variance_of_the_step_before(variance, g):
    """As in Ho et al.'s code, whatever the others have: beta_0 would be twice as much. By what is
    left of the noise, a perfect denoiser pays for black Phi(half / sigma), for grey its middle."""
    beta, half = cosine_beta(1000), 1 / 255
    model = DDPM(Net(), beta, SMALL, 256, "x_0", variance=variance)
    alpha_bar = (1 - beta).cumprod(0)
    sigma = (beta[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])).sqrt()
    black = model.level_nll(-torch.ones(1, 1, 1, 1), -torch.ones(1, 1, 1, 1), step_0(model))
    grey = model.level_nll(
        torch.full((1, 1, 1, 1), 1 / 255), torch.full((1, 1, 1, 1), 1 / 255), step_0(model)
    )
    normal = torch.distributions.Normal(0.0, sigma)
    torch.testing.assert_close(black[0], -normal.cdf(torch.tensor(half)).log())
    torch.testing.assert_close(grey[0], -(2 * normal.cdf(torch.tensor(half)) - 1).log())


def step_0(model):
    """log sigma of the last step down."""
    _, log_sigma = model.step(torch.zeros(1, *SMALL), torch.zeros(1, dtype=torch.long))
    return log_sigma


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_diffusion_and_targets_are_diffusers(prediction):
    beta, t = linear_beta(8), torch.tensor([0, 3, 7])
    model = DDPM(Net(), beta, SMALL, 17, prediction)
    scheduler = peer(model, beta)
    x_0, eps = torch.randn(2, 3, *SMALL)
    x_t = scheduler.add_noise(x_0, eps, t)
    torch.testing.assert_close(model.diffuse(x_0, t, eps), x_t)
    torch.testing.assert_close(model.v(x_0, eps, t), scheduler.get_velocity(x_0, eps, t))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("variance", "theirs"),
    [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")],
)
def test_ancestral_sampling_is_diffusers_step_by_step(
    prediction, clip, variance, theirs, monkeypatch
):
    beta = linear_beta(8)
    model = chain(8, prediction, clip, variance=variance)
    scheduler, g = peer(model, beta, variance_type=theirs), torch.Generator()
    x, seen = torch.randn(3, *SMALL, generator=g.manual_seed(3)), what_is_seen(model)
    for t in reversed(range(8)):
        out = model.net(x, torch.full((3,), t))
        x = scheduler.step(out, t, x, generator=g).prev_sample
    monkeypatch.setattr(model, "grey", lambda x: x)
    torch.testing.assert_close(model.sample(3, g.manual_seed(3)), x)
    assert_same_path(seen, 8)


def what_is_seen(model):
    """All images that the network is asked about from now on."""
    seen = []
    model.net.register_forward_pre_hook(lambda net, args: seen.append(args[0].clone()))
    return seen


def assert_same_path(seen, steps, **close):
    """Of two samplings in a row, step by step."""
    theirs, ours = seen[:steps], seen[steps:]
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), **close)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_diffusers_step_by_step(prediction, eta, monkeypatch):
    T, stride = 13, 3
    beta = linear_beta(T)
    model = chain(T, prediction)
    scheduler, g = peer(model, beta, "DDIMScheduler", set_alpha_to_one=True), torch.Generator()
    scheduler.num_inference_steps = T // stride  # its stride is T // this
    x, seen = torch.randn(3, *SMALL, generator=g.manual_seed(3)), what_is_seen(model)
    for t in reversed(range(0, T, stride)):
        out = model.net(x, torch.full((3,), t))
        step = scheduler.step(out, t, x, eta=eta, use_clipped_model_output=True, generator=g)
        x = step.prev_sample
    monkeypatch.setattr(model, "grey", lambda x: x)
    torch.testing.assert_close(ddim(model, 3, 5, g.manual_seed(3), eta), x)
    assert_same_path(seen, 5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize(("eta", "kind"), [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
def test_dpm_solver_is_diffusers_step_by_step(prediction, eta, kind, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    T = 40
    model = chain(T, prediction, clip=False)
    times = times_even_in_noise(model, 6)[::-1]
    names = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=T,
        trained_betas=linear_beta(T).tolist(),
        prediction_type=names[prediction],
        algorithm_type=kind,
        final_sigmas_type="zero",
        lower_order_final=False,
    )
    alpha_bar = (1 - linear_beta(T)).cumprod(0)
    scheduler.set_timesteps(len(times))
    scheduler.timesteps = torch.tensor(times)
    scheduler.sigmas = torch.cat([((1 - alpha_bar) / alpha_bar).sqrt()[times], torch.zeros(1)])
    g = torch.Generator()
    x, seen = torch.randn(3, *SMALL, generator=g.manual_seed(3)), what_is_seen(model)
    for t in times:
        out = model.net(x, torch.full((3,), t))
        noise = torch.randn(x.shape, generator=g) if eta > 0 and t > 0 else torch.zeros_like(x)
        x = scheduler.step(out, t, x, variance_noise=noise).prev_sample
    monkeypatch.setattr(model, "grey", lambda x: x)
    ours = dpm_solver(model, 3, 6, g.manual_seed(3), eta)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)
    assert_same_path(seen, len(times), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_heun_is_diffusers_step_by_step(prediction, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    T = 40
    model = chain(T, prediction, clip=False)
    times = times_even_in_noise(model, 6)[::-1]
    alpha_bar = (1 - linear_beta(T)).cumprod(0)
    s = ((1 - alpha_bar) / alpha_bar).sqrt()[times]
    names = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
    scheduler = diffusers.HeunDiscreteScheduler(T, prediction_type=names[prediction])
    scheduler.set_timesteps(len(times))
    twice = s[1:].repeat_interleave(2)
    scheduler.sigmas = torch.cat([s[:1], twice, torch.zeros(1)])
    scheduler.timesteps = torch.tensor(times[:1] + [t for t in times[1:] for _ in "ab"])
    g = torch.Generator()
    y = torch.randn(3, *SMALL, generator=g.manual_seed(3)) * (1 + s[0].square()).sqrt()
    seen = what_is_seen(model)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        scheduler._step_index = i
        x = scheduler.scale_model_input(y, t)
        y = scheduler.step(model.net(x, torch.full((3,), t)), t, y).prev_sample
    monkeypatch.setattr(model, "grey", lambda x: x)
    torch.testing.assert_close(heun(model, 3, 6, g.manual_seed(3)), y, rtol=1e-5, atol=1e-6)
    assert_same_path(seen, len(scheduler.timesteps), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_unipc_is_diffusers_step_by_step(prediction, steps, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    T = 40
    model = chain(T, prediction, clip=False)
    times = times_even_in_noise(model, steps)[::-1]
    names = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
    scheduler = diffusers.UniPCMultistepScheduler(
        num_train_timesteps=T,
        trained_betas=linear_beta(T).tolist(),
        prediction_type=names[prediction],
        solver_order=3,
        solver_type="bh2",
        final_sigmas_type="zero",
    )
    alpha_bar = (1 - linear_beta(T)).cumprod(0)
    scheduler.set_timesteps(len(times))
    scheduler.timesteps = torch.tensor(times)
    scheduler.sigmas = torch.cat([((1 - alpha_bar) / alpha_bar).sqrt()[times], torch.zeros(1)])
    g = torch.Generator()
    x, seen = torch.randn(3, *SMALL, generator=g.manual_seed(3)), what_is_seen(model)
    for t in times:
        x = scheduler.step(model.net(x, torch.full((3,), t)), t, x).prev_sample
    monkeypatch.setattr(model, "grey", lambda x: x)
    torch.testing.assert_close(unipc(model, 3, steps, g.manual_seed(3)), x, rtol=1e-4, atol=1e-5)
    assert_same_path(seen, len(times), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("points", [1, 3, 4])
def test_the_exponential_integral_is_exact_for_polynomials(points):
    begin, end, degree = -0.4, 0.9, points - 1
    known = [(u, torch.tensor(u**degree)) for u in (-0.4, -1.3, -1.7, 0.9)[:points]]
    u = torch.linspace(begin, end, 200_001, dtype=torch.float64)
    exact = torch.trapezoid((u - end).exp() * u**degree, u)
    found = exponential_integral(known, begin, end)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-7)


# --- the network's times, and the ends of the chain ---


def test_the_network_sees_raw_times_in_training_and_sampling_alike(g):
    T = 12
    model = chain(T, shape=SHAPE)
    noise = model.noise(600, g)
    model.loss(images(600).float(), noise)
    (training,) = model.net.times
    assert training is noise["t"]
    assert sorted(set(training.tolist())) == list(range(T))
    for draw, times in (
        (lambda: model.sample(2, g), range(T - 1, -1, -1)),
        (lambda: ddim(model, 2, T, g), range(T - 1, -1, -1)),
        (lambda: ddim(model, 2, 4, g), [11, 7, 4, 0]),
    ):
        model.net.times.clear()
        draw()
        assert all(t.dtype == training.dtype == torch.long for t in model.net.times)
        assert [t.tolist() for t in model.net.times] == [[s, s] for s in times]


def test_the_bound_sees_raw_times_too(g):
    model, t = chain(12, shape=SHAPE), torch.tensor([1, 11])
    eps, eps_0 = model.gaussian_noise(2, g), model.gaussian_noise(2, g)
    model.bound(images(2).float(), t, eps, eps_0, torch.ones(2))
    assert [t.tolist() for t in model.net.times] == [[1, 11], [0, 0]]


@pytest.mark.parametrize("n", [7, 64])
def test_a_batch_covers_the_times_evenly(n, g):
    t = tiny_ddpm(T=64).noise(n, g)["t"]
    assert torch.equal(t, t.sort().values)
    spacing = 64 / n
    assert all(i * spacing - 1 <= s < (i + 1) * spacing for i, s in enumerate(t.tolist()))


@pytest.mark.usefixtures("float64")
def test_the_last_step_adds_no_noise(g, monkeypatch):
    target = torch.rand(2, *SMALL)
    model = aiming_at(target, 17)
    monkeypatch.setattr(model, "grey", lambda x: x)
    starts = []
    start = model.gaussian_noise
    monkeypatch.setattr(model, "gaussian_noise", lambda *a: starts.append(a) or start(*a))
    torch.testing.assert_close(model.sample(2, g), target)
    assert len(starts) == model.T
    torch.testing.assert_close(ddim(model, 2, 3, g), target)
    torch.testing.assert_close(ddim(model, 2, 3, g, eta=1.0), target)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_ddim_with_eta_one_and_all_steps_is_the_ancestral_chain(prediction, monkeypatch):
    model, g = chain(8, prediction, schedule=cosine_beta), torch.Generator()
    monkeypatch.setattr(model, "grey", lambda x: x)
    ancestral = model.sample(3, g.manual_seed(5))
    torch.testing.assert_close(ddim(model, 3, 8, g.manual_seed(5), eta=1.0), ancestral)


def test_ddims_noise_is_exact_where_there_is_hardly_any(monkeypatch, g):
    """Of the last step of a chain whose first noise is a thousandth, in float32."""
    beta = torch.tensor([1e-6, 1.1e-6, 1.3e-6, 0.5], dtype=torch.float64)
    model, seen = DDPM(Net(), beta, SMALL, 17), []
    drawn = iter([*(torch.zeros(1, *SMALL) for _ in range(3)), torch.ones(1, *SMALL)])
    monkeypatch.setattr(model, "gaussian_noise", lambda n, g: next(drawn))
    monkeypatch.setattr("triptych.samplers.x_0_hat", lambda m, x, t: seen.append(x) or 0 * x)
    ddim(model, 1, 4, g, eta=1.0)
    ab = (1 - beta).cumprod(0)
    exact = ((1 - ab[0]) / (1 - ab[1]) * (1 - ab[1] / ab[0])).sqrt()
    torch.testing.assert_close(seen[-1].double(), exact.expand(1, *SMALL), rtol=1e-3, atol=0)


@pytest.mark.parametrize("schedule", [linear_beta, cosine_beta])
def test_ddims_steps_are_those_of_the_posterior_at_both_ends(schedule, monkeypatch, g):
    """q(x_s | x_t, x_0 = 0) with eta = 1, in float32: sigma is nearly 1 at one end, alpha at the
    other."""
    beta, seen = schedule(1000), []
    model = DDPM(Net(), beta, SMALL, 17)
    ab = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), ab[:-1]])
    noise = (beta * (1 - before) / (1 - ab)).sqrt()
    kept = (1 - beta).sqrt() * (1 - before) / (1 - ab)
    monkeypatch.setattr("triptych.samplers.x_0_hat", lambda m, x, t: seen.append(x) or 0 * x)
    for draw in (1.0, 0.0):  # after the start, of ones: all noise, then none
        drawn = iter([torch.ones(1, *SMALL), *(torch.full((1, *SMALL), draw),) * 1000])
        monkeypatch.setattr(model, "gaussian_noise", lambda n, g, drawn=drawn: next(drawn))
        ddim(model, 1, 1000, g, eta=1.0)
    with_noise, without = (
        torch.stack([x[0, 0, 0, 0] for x in part]).double() for part in (seen[:1000], seen[1000:])
    )
    times = torch.arange(999, 0, -1)
    torch.testing.assert_close(without[1:] / without[:-1], kept[times], rtol=1e-4, atol=0)
    new = with_noise[1:] - with_noise[:-1] * kept[times]
    torch.testing.assert_close(new, noise[times], rtol=1e-3, atol=0)


@pytest.mark.parametrize("steps", [3, 6])
def test_ddim_is_finite_where_all_noise_is_new(steps, g):
    """At these steps of this chain 1 - ab - sigma^2 is nothing, which rounding takes below zero."""
    model = DDPM(Net(), cosine_beta(1000), SMALL, 17)
    assert ddim(model, 2, steps, g, eta=1.0).isfinite().all()


def test_guidance_leaves_a_learned_variance_alone():
    net, guide = tiny_ddpm(variance="learned").net, tiny_ddpm(variance="learned").net
    randomised(net, 0.3), randomised(guide, 0.3)
    x, t = torch.randn(3, *SHAPE), torch.tensor([0, 2, 5])
    good, bad = net(x, t), guide(x, t)
    out = Autoguidance(net, guide, 3.0)(x, t)
    torch.testing.assert_close(out[:, 1:], good[:, 1:])
    torch.testing.assert_close(out[:, :1], bad[:, :1] + 3 * (good - bad)[:, :1])


def test_ddim_with_eta_zero_needs_no_noise_but_the_first(g):
    model = chain(8)
    start = model.gaussian_noise(2, g)
    model.gaussian_noise = lambda n, generator: start
    assert torch.equal(ddim(model, 2, 4, g), ddim(model, 2, 4, g))


@pytest.mark.parametrize(("T", "steps"), [(10, 2), (1000, 50), (1000, 1000), (64, 63)])
def test_times_even_in_t_hold_both_ends_and_no_time_twice(T, steps):
    times = times_even_in_t(T, steps)
    assert (times[0], times[-1], len(times)) == (0, T - 1, steps)
    assert all(a < b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("schedule", [linear_beta, cosine_beta])
@pytest.mark.parametrize(("T", "steps"), [(10, 2), (1000, 20), (1000, 400), (1000, 1000), (64, 63)])
@pytest.mark.parametrize("rho", [None, 7.0, 1.0])
def test_times_are_different_and_begin_at_zero(T, steps, schedule, rho):
    model = chain(T, schedule=schedule)
    times = times_even_in_noise(model, steps, rho)
    assert (times[0], len(times)) == (0, steps)
    assert all(a < b for a, b in itertools.pairwise(times))
    assert times[-1] < T
    if steps == 20 and rho is None:
        ratio = (model.sqrt_alpha_bar / model.sqrt_one_minus_alpha_bar).log()
        assert ratio[times].diff().std() < 0.2 * ratio[times].diff().abs().mean()
        assert ratio[times[-1]] <= -5.1 or times[-1] == T - 1
        assert ratio[times[-1] - 1] > -5.1


@pytest.mark.parametrize("rho", [2.0, 7.0])
def test_times_of_a_rho_are_as_even_in_that_root_of_the_noise_as_the_chain_has_them(rho):
    model = chain(100_000, schedule=cosine_beta)
    times = times_even_in_noise(model, 20, rho)
    s = (model.sqrt_one_minus_alpha_bar / model.sqrt_alpha_bar).double()[times]
    steps = (s ** (1 / rho)).diff()
    assert (times[0], len(times)) == (0, 20)
    assert steps.std() < 0.03 * steps.mean()
    assert s.log().diff().std() > 0.3 * s.log().diff().mean()


@pytest.mark.parametrize("sampler", [ddim, dpm_solver])
def test_noise_enters_below_its_bound_alone(sampler, monkeypatch):
    model, drawn, draw = chain(1000, schedule=cosine_beta), [], DDPM.gaussian_noise
    monkeypatch.setattr(DDPM, "gaussian_noise", lambda *a: drawn.append(a) or draw(*a))

    def images(**how):
        drawn.clear()
        return sampler(model, 3, 8, torch.Generator().manual_seed(0), **how)

    assert torch.equal(images(eta=1.0), images(eta=1.0, noise_below=1e9))
    assert len(drawn) == 1 + 7
    assert torch.equal(images(eta=0.0), images(eta=1.0, noise_below=1e-9))
    assert len(drawn) == 1
    times = times_even_in_t(1000, 8) if sampler is ddim else times_even_in_noise(model, 8)
    alpha, sigma, _ = noise_levels(model)
    images(eta=1.0, noise_below=1.0)
    assert 1 < len(drawn) - 1 == sum(sigma[t] < alpha[t] for t in times[1:]) < 7


@pytest.mark.parametrize("sampler", [dpm_solver, unipc, heun])
def test_without_rho_it_is_infinite(sampler):
    model = chain(1000, schedule=cosine_beta)
    none, infinite, one = (
        sampler(model, 3, 8, torch.Generator().manual_seed(0), rho=rho) for rho in (None, 1e6, 1.0)
    )
    assert torch.equal(none, infinite)
    assert not torch.equal(none, one)


@pytest.mark.parametrize("steps", [0, 1, 11])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"2\.\.10"):
        times_even_in_t(10, steps)
    with pytest.raises(ValueError, match=r"2\.\.10"):
        times_even_in_noise(chain(10), steps)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("DDPM(net, torch.full((8,), 0.1), (1, 2, 2), 17, {})", "prediction='epsilon'"),
        ("DDPM(net, torch.full((8,), 0.1), (1, 2, 2), 17, {})", "variance='fixed_small'"),
        ("VDM(net, (1, 2, 2), 17, {})", "prediction='velocity'"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(model, word):
    """By a program without the tests' type checks, which would be first."""
    code = f"""
import torch
from triptych.ddpm import DDPM
from triptych.vdm import VDM
net = torch.nn.Identity()
{model.format(word)}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = f"{word.partition('=')[2]} is none of"
    assert done.stderr.splitlines()[-1].startswith(f"ValueError: {said}")


# --- the loss and the terms of the bound ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_the_loss_is_the_squared_error_of_the_prediction(prediction, g):
    model, x = chain(8, prediction, shape=SHAPE), images(5).double()
    noise = model.noise(5, g)
    t, eps, x_0 = noise["t"], noise["eps"], x / 8 - 1
    a, s = (c[t].view(-1, 1, 1, 1) for c in (model.sqrt_alpha_bar, model.sqrt_one_minus_alpha_bar))
    target = {"eps": eps, "x_0": x_0, "v": a * eps - s * x_0}[prediction]
    error = (model.net(a * x_0 + s * eps, t) - target).square().mean((1, 2, 3))
    torch.testing.assert_close(model.loss(x, noise), error)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_min_snr_weighs_the_error_of_the_image_by_the_truncated_snr(prediction, g):
    """Hang et al. 2023, section 3.4: min(SNR, gamma) ||x_0 - x_0_hat||^2, whatever is predicted."""
    gamma = 2.0
    model = chain(40, prediction, False, cosine_beta, SHAPE, gamma)
    x, noise = images(80).double(), model.noise(80, g)
    t, x_0 = noise["t"], model.scale(x)
    alpha_bar = (1 - cosine_beta(40).double()).cumprod(0)[t]
    snr = alpha_bar / (1 - alpha_bar)
    assert snr.min() < gamma < snr.max()
    error = (x_0 - model.x_0_hat(model.diffuse(x_0, t, noise["eps"]), t)).square().mean((1, 2, 3))
    torch.testing.assert_close(model.loss(x, noise), snr.clamp(max=gamma) * error)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
def test_every_prediction_implies_the_image_they_came_from(prediction):
    model, t = chain(8, prediction, clip=False), torch.tensor([0, 4, 7])
    x_0, eps = torch.randn(2, 3, *SMALL)
    truth = {"eps": eps, "x_0": x_0, "v": model.v(x_0, eps, t)}[prediction]
    model.net = Says(truth)
    torch.testing.assert_close(model.x_0_hat(model.diffuse(x_0, t, eps), t), x_0)
    model.clip = True
    clipped = model.x_0_hat(model.diffuse(x_0, t, eps), t)
    torch.testing.assert_close(clipped, x_0.clamp(-1, 1))


def exact_log_mass(lower, upper):
    with mpmath.workdps(80):
        lo, hi = (mpmath.mpf(v) for v in sorted((lower, upper)))
        if lo + hi > 0:
            lo, hi = -hi, -lo
        return float(mpmath.log(mpmath.ncdf(hi) - mpmath.ncdf(lo)))


INTERVALS = [(-1, 1), (-0.3, 0.9), (5, 6), (-6, -5), (30, 30.5), (-30.5, -30), (-0.001, 0.001)]
INTERVALS += [(12, float("inf")), (float("-inf"), -12), (float("-inf"), 3), (-200, -190), (-3, 50)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("lower", "upper"), INTERVALS)
def test_log_normal_mass_is_exact_in_both_tails(lower, upper):
    ours = log_normal_mass(torch.tensor(float(lower)), torch.tensor(float(upper)))
    assert ours.item() == pytest.approx(exact_log_mass(lower, upper), rel=1e-9)


@pytest.mark.parametrize(("lower", "upper"), [(20, 21), (-21, -20), (60, 60.5), (1.5, 1.6)])
def test_log_normal_mass_keeps_its_precision_in_single_precision(lower, upper):
    ours = log_normal_mass(torch.tensor(float(lower)), torch.tensor(float(upper)))
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(exact_log_mass(lower, upper), rel=1e-4)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mu", [-3.0, -1.0, -0.2, 0.37, 1.0, 2.5])
def test_the_reconstruction_term_is_a_distribution_over_the_levels(levels, mu):
    model = aiming_at(torch.full((1, 1, 1), mu), levels)
    x_0 = model.scale(torch.arange(levels).double()).view(-1, 1, 1, 1)
    log_p = -model.reconstruction_term(x_0, torch.randn_like(x_0))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_p.argmax().item() == min(max(round((mu + 1) / 2 * (levels - 1)), 0), levels - 1)


def by_hand(model, x_0, t, eps):
    """L_t, or L_0 where t = 0, of each image by torch's own distributions."""
    x_t, a, s = model.diffuse(x_0, t, eps), model.sqrt_alpha_bar, model.sqrt_one_minus_alpha_bar
    out, share = model.net(x_t, t).chunk(2, 1)
    found = []
    for i, step in enumerate(t.tolist()):
        x_0_hat = ((x_t[i] - s[step] * out[i]) / a[step]).clamp(-1, 1)
        small, large = model.log_sigma_small[step], model.log_sigma_large[step]
        sigma = (small + (share[i] + 1) / 2 * (large - small)).exp()
        p = torch.distributions.Normal(model.mu(x_0_hat, x_t[i], t[i : i + 1])[0], sigma)
        q = torch.distributions.Normal(model.mu(x_0[i], x_t[i], t[i : i + 1])[0], small.exp())
        if step > 0:
            found.append(torch.distributions.kl_divergence(q, p).sum())
        else:
            up, down = x_0[i] + 1 / 16, x_0[i] - 1 / 16
            up, down = up.where(x_0[i] < 0.99, torch.inf), down.where(x_0[i] > -0.99, -torch.inf)
            found.append(-(p.cdf(up) - p.cdf(down)).log().sum())
    return torch.stack(found)


@pytest.mark.usefixtures("float64")
def test_a_learned_variance_pays_the_bound_and_the_mean_the_squared_error(g):
    model, x = chain(variance="learned", shape=SHAPE), images(6).double()
    noise = model.noise(6, g) | {"t": torch.tensor([0, 0, 1, 3, 5, 7])}
    t, eps, x_0 = noise["t"], noise["eps"], model.scale(x)
    out = model.net(model.diffuse(x_0, t, eps), t).chunk(2, 1)[0]
    error = (out - eps).square().mean((1, 2, 3))
    bound = by_hand(model, x_0, t, eps)
    torch.testing.assert_close(model.diffusion_term(x_0, t, eps)[2:], bound[2:])
    torch.testing.assert_close(model.reconstruction_term(x_0[:2], eps[:2]), bound[:2])
    bits = 8 * bound / (math.prod(SHAPE) * math.log(2))
    torch.testing.assert_close(model.loss(x, noise), error + 1e-3 * bits)
    said = model.net(model.diffuse(x_0, t, eps), t).requires_grad_()
    model.net = Says(said)
    model.loss(x, noise).sum().backward()
    of_mean, of_share = said.grad.chunk(2, 1)
    torch.testing.assert_close(of_mean, 2 * (out - eps) / math.prod(SHAPE))
    assert of_share[2:].abs().min() > 0


@pytest.mark.parametrize("share", [5.0, 50.0, 200.0])
def test_variances_that_leave_a_bin_no_mass_have_gradients_at_other_times(share, g):
    """What is masked must not be 0 x inf."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.share = nn.Parameter(torch.tensor(share))

        def forward(self, x, t):
            return torch.cat([0 * x, self.share.expand_as(x)], -3)

    model = DDPM(Wide(), linear_beta(50), SHAPE, 17, variance="learned")
    noise = model.noise(6, g) | {"t": torch.arange(1, 7)}
    model.terms(images(6).float(), noise)["bound"].sum().backward()
    assert model.net.share.grad.isfinite()


@pytest.mark.parametrize("name", ["ancestral", *SAMPLERS])
def test_a_chain_in_double_precision_is_sampled(name, g):
    model = tiny_ddpm().double()
    draw = model.sample if name == "ancestral" else partial(SAMPLERS[name], model, steps=3)
    assert draw(n=2, generator=g).dtype == torch.float64


@pytest.mark.parametrize("beta", [torch.linspace(0, 0.1, 8), torch.linspace(0.1, 1, 8)])
def test_a_schedule_that_leaves_all_or_nothing_of_an_image_at_once_is_refused(beta):
    with pytest.raises(ValueError, match="every beta lies between 0 and 1"):
        DDPM(nn.Identity(), beta, SMALL, 17)


def test_a_learned_variance_needs_levels():
    with pytest.raises(ValueError, match="needs levels"):
        DDPM(Net(), linear_beta(8), SMALL, None, variance="learned")


@pytest.mark.usefixtures("float64")
def test_a_perfect_prediction_pays_nothing_after_the_first_step(g):
    target = 2 * torch.rand(5, *SMALL) - 1
    model = aiming_at(target, 17)
    gap = model.diffusion_term(target, torch.tensor([1, 2, 3, 5, 7]), torch.randn_like(target))
    torch.testing.assert_close(gap, torch.zeros(5))


@torch.no_grad()
def test_samples_lie_on_the_grid_of_levels(g):
    model = randomised(tiny_ddpm(), 0.1)
    for x in (model.sample(20, g), ddim(model, 20, 3, g)):
        levels = x * (model.levels - 1)
        torch.testing.assert_close(levels, levels.round(), atol=1e-5, rtol=0)
        assert levels.min() >= 0
        assert levels.max() <= model.levels - 1


def test_levels_go_to_the_symmetric_interval_and_back():
    model, k = tiny_ddpm(), torch.arange(17.0)
    x_0 = model.scale(k)
    assert (x_0.min(), x_0.max()) == (-1, 1)
    torch.testing.assert_close(model.grey(x_0) * 16, k)
