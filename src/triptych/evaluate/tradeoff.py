"""Quality against time: the Frechet distance that each way of sampling reaches, and what it takes.

The rows of one model, and of all in a study, have as many samples and the same reference, so that
they may be compared with each other; with the FID of more samples they may not.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triptych.data import Dataset
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.drawing import chain_of, enough, sampler, sampling_protocol
from triptych.evaluate.evaluation import Drawing, Evaluation, Say, quiet
from triptych.evaluate.fidelity import BLOCKS
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.evaluate.judge_samples import from_training
from triptych.evaluate.speed import BATCH, clocked
from triptych.train.order import Stream, generator_for

SETTINGS = ("eta", "noise_below", "rho")
WAYS: dict[str, tuple[Drawing, tuple[int, ...]]] = {
    "dpm-solver++": (Drawing("dpm-solver++"), (5, 10, 20)),
    # The SDE's noise, at the levels and times that were chosen with guidance (results/choices.md).
    "dpm-solver++ sde": (
        Drawing("dpm-solver++", eta=1.0, noise_below=6.0, rho=7.0),
        (10, 20, 40),
    ),
    # With this rho, of 4, 7, 12 and none, 20 steps end nearest to where all 1,000 do.
    "unipc": (Drawing("unipc", rho=12.0), (5, 10, 20)),
    "heun": (Drawing("heun"), (5, 10)),
    "ddim": (Drawing("ddim"), (10, 25, 50)),
}


def ways(
    model: nn.Module, drawn_by: nn.Module, how: Evaluation, device: torch.device
) -> Iterator[tuple[str, nn.Module, Evaluation]]:
    """What it is called, what to draw from, and how: first as is asked for; then, if there is a
    chain, by every sampler without guidance; and on a GPU, which can afford it, by all the steps
    that the chain has."""
    yield "asked", drawn_by, how
    if chain_of(model) is None:
        return
    for name, (way, counts) in WAYS.items():
        for steps in counts:
            yield name, model, replace(how, **asdict(replace(way, steps=steps)))
    if device.type == "cuda":
        yield "ancestral", model, replace(how, **asdict(Drawing("ancestral")))


def tradeoff(
    model: nn.Module,
    drawn_by: nn.Module,
    how: Evaluation,
    data: Dataset,
    features: Features,
    seed: int,
    say: Say = quiet,
) -> dict[str, NDArray[Any]]:
    """A row for each way: sampler, its eta, noise_below and rho (nan where it has none), network
    evaluations (0: of a sampler of one's own), seconds a sample, FID of `how.tradeoff_images`
    samples against all test images.
    `floor` is that of as many training images, the mean over disjoint blocks of them, ten at most;
    nan where there are too few for one."""
    device, n = data.test_images.device, how.tradeoff_images
    test = moments(features(grey(data.test_images, data.levels)))
    real = features(grey(from_training(data, BLOCKS * n), data.levels))
    blocks = real.split(n)[: len(real) // n]
    floors = [frechet_distance(moments(block), test) for block in blocks]
    floor = np.mean(floors) if floors else np.nan
    names = ("sampler", *SETTINGS, "evaluations", "seconds", "fid")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for name, source, way in ways(model, drawn_by, how, device):
        said = sampling_protocol(source, way)
        calls = f", {said['evaluations']} network evaluations" if "evaluations" in said else ""
        say(f"quality against time, {name}{calls}")
        draw = sampler(source, way, generator_for(seed, 0, device, stream=Stream.SAMPLES))
        samples, seconds = timed(draw, n, device)
        rows["sampler"].append(name)
        for setting in SETTINGS:
            rows[setting].append(said.get(setting, np.nan))
        rows["evaluations"].append(said.get("evaluations", 0 if "sampler" in said else 1))
        rows["seconds"].append(seconds / n)
        rows["fid"].append(frechet_distance(moments(features(samples)), test))
    arrays = {name: np.array(values) for name, values in rows.items()}
    return arrays | {"n": np.array(n), "floor": np.array(floor)}


def timed(draw: Callable[[int], Tensor], n: int, device: torch.device) -> tuple[Tensor, float]:
    """n samples, and the seconds they take once the first batch is past; on a GPU, where batches of
    each size are captured first, once as many have been drawn."""

    def all_() -> Tensor:
        return enough(draw(min(n, BATCH)), draw, n)

    clocked(all_ if device.type == "cuda" else lambda: draw(min(n, BATCH)), device)
    return clocked(all_, device)
