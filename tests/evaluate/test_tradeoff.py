"""Each way of sampling beside what it costs."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from test_judge import Counted, OfOnesOwn, features
from toys import built

from triptych.evaluate import speed, tradeoff
from triptych.evaluate.classifier import grey
from triptych.evaluate.drawing import sampler
from triptych.evaluate.evaluation import Drawing, Evaluation
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.evaluate.judge_samples import from_training
from triptych.report import quality_time
from triptych.train.order import Stream, generator_for

HOW = Evaluation(steps=4, eta=1.0, tradeoff_images=30)


@pytest.fixture
def row(digits, monkeypatch):
    few = {"heun": (Drawing("heun"), (3,)), "ddim": (Drawing("ddim"), (2, 5))}
    monkeypatch.setattr(tradeoff, "WAYS", few)
    model, asked = built("ddpm"), built("ddpm", seed=1)
    model.net, asked.net = Counted(model.net), Counted(asked.net)
    return model, asked, tradeoff.tradeoff(model, asked, HOW, digits, features(), 0)


def test_the_way_that_was_asked_for_comes_first_and_every_sampler_after(row):
    _, _, found = row
    assert found["sampler"].tolist() == ["asked", "heun", "ddim", "ddim"]
    assert found["evaluations"].tolist() == [4, 5, 2, 5]
    np.testing.assert_equal(found["eta"], [1.0, np.nan, 0.0, 0.0])
    assert np.isnan(found["noise_below"]).all()
    assert np.isnan(found["rho"]).all()
    assert (found["seconds"] > 0).all()


def test_seconds_are_of_one_sample(digits, monkeypatch):
    monkeypatch.setattr(tradeoff, "WAYS", {})
    monkeypatch.setattr(tradeoff, "timed", lambda draw, n, device: (draw(n), 12.0))
    model = built("ddpm")
    found = tradeoff.tradeoff(model, model, HOW, digits, features(), 0)
    assert found["seconds"].tolist() == [12 / 30]


def test_only_the_way_that_was_asked_for_draws_from_the_guided_model(row):
    model, asked, _ = row
    assert asked.net.calls == 2 * 4
    assert model.net.calls == 2 * (5 + 2 + 5)


def test_all_have_the_same_number_of_samples_and_the_same_reference(row, digits):
    _, _, found = row
    seen, g = features(), generator_for(0, 0, torch.device("cpu"), stream=Stream.SAMPLES)
    how = Evaluation(steps=5)
    draw = sampler(built("ddpm"), how, g)
    draw(30)  # what the clock leaves out
    test = moments(seen(grey(digits.test_images, digits.levels)))
    expected = frechet_distance(moments(seen(draw(30))), test)
    assert found["fid"][-1] == pytest.approx(expected, rel=1e-4)
    real = seen(grey(from_training(digits, 300), digits.levels)).split(30)
    floors = [frechet_distance(moments(block), test) for block in real]
    assert len(floors) == 10
    assert found["floor"] == pytest.approx(np.mean(floors))
    assert found["n"] == 30


def test_there_is_no_floor_of_fewer_training_images_than_samples(digits, monkeypatch):
    monkeypatch.setattr(tradeoff, "WAYS", {})
    kept = {f"train_{what}": getattr(digits, f"train_{what}")[:29] for what in ("images", "labels")}
    few = dataclasses.replace(digits, **kept)
    model = built("ddpm")
    assert np.isnan(tradeoff.tradeoff(model, model, HOW, few, features(), 0)["floor"])


def test_every_way_is_drawn_as_it_is_called():
    model, guided = built("ddpm"), built("ddpm")
    noise: Any = {"eta": 1.0, "noise_below": 2.0}
    how = Evaluation(sampler="dpm-solver++", steps=40, rho=3.0, guidance=1.25, **noise)
    (_, first, asked), *others = tradeoff.ways(model, guided, how, torch.device("cuda"))
    assert (first, asked) == (guided, how)
    chosen = {name: (way.eta, way.noise_below, way.rho) for name, _, way in others}
    plain = dict.fromkeys(tradeoff.WAYS, (0.0, None, None))
    noisy = {"dpm-solver++ sde": (1.0, 6.0, 7.0), "unipc": (0.0, None, 12.0)}
    assert chosen == plain | noisy | {"ancestral": (0.0, None, None)}
    assert all(source is model and way.guidance == 1 for _, source, way in others)
    assert all(name.startswith(way.sampler) for name, _, way in others)
    assert set(tradeoff.WAYS) | {"asked", "ancestral"} == set(quality_time.WAYS)


def test_a_model_without_a_chain_has_one_row(digits):
    model = built("pixelflow")
    found = tradeoff.tradeoff(model, model, HOW, digits, features(), 0)
    assert found["sampler"].tolist() == ["asked"]
    assert found["evaluations"].tolist() == [1]
    assert np.isfinite(found["fid"]).all()


def test_a_sampler_of_ones_own_has_none_of_the_settings(digits, monkeypatch):
    monkeypatch.setattr(tradeoff, "WAYS", {})
    model = built("ddpm")
    found = tradeoff.tradeoff(model, OfOnesOwn(model), HOW, digits, features(), 0)
    assert found["evaluations"].tolist() == [0]
    assert np.isnan(found["eta"]).all()


def test_the_first_batch_is_not_on_the_clock(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    laps = [100.0, 3.0, 4.0]

    def draw(n):
        clock[0] += laps.pop(0)
        return torch.zeros(n, 1, 1, 1)

    samples, seconds = tradeoff.timed(draw, 100, torch.device("cpu"))
    assert len(samples) == 100
    assert seconds == 7.0


def test_on_a_gpu_batches_of_all_sizes_are_drawn_once_before(monkeypatch):
    """The first of each size is captured."""
    drawn = []
    monkeypatch.setattr(tradeoff, "clocked", lambda work, device: (work(), len(drawn)))

    def draw(n):
        drawn.append(n)
        return torch.zeros(n, 1, 1, 1)

    samples, _ = tradeoff.timed(draw, 1000, torch.device("cuda"))
    assert len(samples) == 1000
    assert set(drawn[: len(drawn) // 2]) == set(drawn)
