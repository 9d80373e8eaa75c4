"""The scores of a set of samples on a classifier's features, each beside what real images have.

References and samples are grey values in [0, 1], whatever view the model was trained on. `floor`,
or `real` where more is better, is the same score with as many training images in the place of the
samples.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from triptych.data import Dataset
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.fidelity import (
    BLOCKS,
    classes,
    frechet_growth,
    kernel_distance,
    neighbourhoods,
)
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.protocols import Score
from triptych.train.order import generator_for

NEIGHBOURS = 5


def sample_scores(
    samples: Float[Tensor, "n C H W"], data: Dataset, features: Features, sampling: dict[str, Any]
) -> tuple[list[Score], dict[str, NDArray[Any]]]:
    """FID and classes, and of 20 or more the growth of FID, KID, precision, recall, density and
    coverage."""
    n = len(samples)
    test = features(grey(data.test_images[:n], data.levels))
    train = features(grey(from_training(data, n), data.levels))
    fake = features(samples)
    protocol = {
        "dataset": data.name,
        "split": "test",
        "n": n,
        "view": "raw",
        "features": features.name,
        "feature_hash": features.hash,
    } | sampling
    floor = frechet_distance(moments(train), moments(test))
    value = frechet_distance(moments(fake), moments(test))
    scores = [
        Score("fid", value, "", None, protocol | {"floor": floor}),
        *(_class_scores(features, fake, train, test, protocol) if features.classifies else []),
    ]
    if min(len(fake), len(train), len(test)) < 2 * BLOCKS:
        return scores, {}
    growth, real = frechet_growth(fake, test), frechet_growth(train, test)
    if growth.at_infinity is not None:
        limit = protocol | {"floor": real.at_infinity}
        scores.append(Score("fid-infinity", growth.at_infinity, "", None, limit))
    scores += [
        _kernel_score(fake, train, test, protocol),
        *_neighbourhood_scores(fake, train, test, protocol),
    ]
    curves = {"n": growth.n, "fid": growth.fid, "floor": real.fid}
    return scores, {name: np.array(values) for name, values in curves.items()}


def from_training(data: Dataset, n: int) -> UInt8[Tensor, "n C H W"]:
    """n training images, or all if there are fewer, always the same ones."""
    generator = generator_for(0, 0, torch.device("cpu"), stream=6)
    order = torch.randperm(len(data.train_images), generator=generator)[:n]
    return data.train_images[order.to(data.train_images.device)]


def _kernel_score(fake: Tensor, train: Tensor, test: Tensor, protocol: dict[str, Any]) -> Score:
    n = min(len(train), len(test))
    value, error = kernel_distance(fake[:n], test[:n])
    floor = kernel_distance(train[:n], test[:n]).value
    return Score("kid", value, "", error, protocol | {"floor": floor})


def _neighbourhood_scores(
    fake: Tensor, train: Tensor, test: Tensor, protocol: dict[str, Any]
) -> list[Score]:
    found, real = (neighbourhoods(test, images, NEIGHBOURS) for images in (fake, train))
    return [
        Score(name, getattr(found, name), "", None, protocol | {"real": getattr(real, name)})
        for name in found._fields
    ]


def _class_scores(
    features: Features, fake: Tensor, train: Tensor, test: Tensor, protocol: dict[str, Any]
) -> list[Score]:
    seen, real, reference = (features.logits(f) for f in (fake, train, test))
    found, usual = classes(seen, reference), classes(real, reference)
    return [
        Score("class-distance", found.distance, "", None, protocol | {"floor": usual.distance}),
        Score("confidence", found.confidence, "", None, protocol | {"real": usual.confidence}),
    ]
