"""The scores of a set of samples on a classifier's features, each beside what real images have.

References and samples are grey values in [0, 1], whatever view the model was trained on. `floor`,
or `real` where more is better, is the same score with as many training images in the place of the
samples.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from triptych.data import Dataset
from triptych.errors import UserError
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.evaluation import Arrays, of_first
from triptych.evaluate.fidelity import (
    BLOCKS,
    classes,
    frechet_error,
    frechet_growth,
    kernel_distance,
    neighbourhoods,
)
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.protocols import Score
from triptych.train.order import Stream, generator_for

NEIGHBOURS = 5
KERNEL = "(x.y / D + 1)^3"


def sample_scores(
    samples: Float[Tensor, "n C H W"], data: Dataset, features: Features, sampling: dict[str, Any]
) -> tuple[list[Score], Arrays]:
    """FID and classes, and of 20 or more the growth of FID, KID, precision, recall, density and
    coverage. What they would be for real images is that of as many training images; where there
    are fewer, it is left out of what depends on their number.

    Raises:
        UserError: samples that hold numbers that are not finite.
    """
    n = len(samples)
    if broken := int((~samples.isfinite().flatten(1).all(1)).sum()):
        raise UserError(
            f"{broken} of {n} samples hold numbers that are not finite: by this sampler the model "
            f"draws no images; choose another, or more steps"
        )
    test = features(grey(data.test_images[:n], data.levels))
    train = features(grey(from_training(data, n), data.levels))
    fake = features(samples)
    protocol = reference_protocol(data, n, features) | {"dimensions": fake.shape[1]} | sampling
    real = moments(test)
    value = frechet_distance(moments(fake), real)
    as_many = len(train) == n
    floor = {"floor": frechet_distance(moments(train), real)} if as_many else {}
    many = min(len(fake), len(train), len(test)) >= 2 * BLOCKS
    error = frechet_error(fake, real) if many else None
    scores = [Score("fid", value, "", error, protocol | floor)]
    arrays: Arrays = {}
    if features.classifies:
        of_classes, arrays["classes"] = _class_scores(features, fake, train, test, protocol)
        scores += of_classes
    if not many:
        return scores, arrays
    as_many_real = train if as_many else None
    of_growth, arrays["fid-growth"] = _growth_scores(fake, as_many_real, test, protocol)
    scores += [
        *of_growth,
        _kernel_score(fake, train, test, protocol),
        *_neighbourhood_scores(fake, as_many_real, test, protocol),
    ]
    return scores, arrays


def reference_protocol(data: Dataset, n: int, features: Features) -> dict[str, Any]:
    """Of what is compared with n test images on these features."""
    whole = {"dataset": data.name, "split": "test", "n": len(data.test_images), "view": "raw"}
    return of_first(whole, n) | {"features": features.name, "feature_hash": features.hash}


def from_training(data: Dataset, n: int) -> UInt8[Tensor, "n C H W"]:
    """n training images, or all if there are fewer, always the same ones."""
    generator = generator_for(0, 0, torch.device("cpu"), stream=Stream.TRAINING_IMAGES)
    order = torch.randperm(len(data.train_images), generator=generator)[:n]
    return data.train_images[order.to(data.train_images.device)]


def _growth_scores(
    fake: Tensor, train: Tensor | None, test: Tensor, protocol: dict[str, Any]
) -> tuple[list[Score], dict[str, NDArray[Any]]]:
    growth = frechet_growth(fake, test)
    usual = None if train is None else frechet_growth(train, test)
    floor = usual.fid if usual else [math.nan] * len(growth.n)
    curves = {"n": growth.n, "fid": growth.fid, "floor": floor}
    arrays = {name: np.array(values) for name, values in curves.items()}
    if growth.at_infinity is None:
        return [], arrays
    limit = {"floor": usual.at_infinity} if usual else {}
    return [Score("fid-infinity", growth.at_infinity, "", None, protocol | limit)], arrays


def _kernel_score(fake: Tensor, train: Tensor, test: Tensor, protocol: dict[str, Any]) -> Score:
    n = min(len(train), len(test))
    value, error = kernel_distance(fake[:n], test[:n])
    floor = kernel_distance(train[:n], test[:n]).value
    how = {"floor": floor, "kernel": KERNEL, "blocks": BLOCKS}
    return Score("kid", value, "", None, of_first(protocol, n) | how, error)


def _neighbourhood_scores(
    fake: Tensor, train: Tensor | None, test: Tensor, protocol: dict[str, Any]
) -> list[Score]:
    found = neighbourhoods(test, fake, NEIGHBOURS)._asdict()
    real = {} if train is None else neighbourhoods(test, train, NEIGHBOURS)._asdict()
    how = protocol | {"neighbours": NEIGHBOURS}
    return [
        Score(name, value, "", None, how | ({"real": real[name]} if real else {}))
        for name, value in found.items()
    ]


def _class_scores(
    features: Features, fake: Tensor, train: Tensor, test: Tensor, protocol: dict[str, Any]
) -> tuple[list[Score], dict[str, NDArray[Any]]]:
    seen, real, reference = (features.logits(f) for f in (fake, train, test))
    found, usual = classes(seen, reference), classes(real, reference)
    scores = [
        Score("class-distance", found.distance, "", None, protocol | {"floor": usual.distance}),
        Score("confidence", found.confidence, "", None, protocol | {"real": usual.confidence}),
    ]
    test_shares = classes(reference, reference).shares
    shares = {"samples": found.shares, "train": usual.shares, "test": test_shares}
    return scores, {name: np.array(values) for name, values in shares.items()}
