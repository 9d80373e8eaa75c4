"""Are samples copies of training images? Their distances to the nearest of these, beside those of
test images, which cannot be."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from triptych.data import Dataset, view
from triptych.evaluate.classifier import grey
from triptych.evaluate.drawing import as_bytes, seen, shows_means
from triptych.evaluate.evaluation import DRAWN
from triptych.evaluate.nearest import nearest, share_nearer
from triptych.evaluate.reconstruct import reconstructions
from triptych.protocols import Score
from triptych.train.order import Stream, generator_for

CLOSE = 0.01


def nearest_score(
    model: nn.Module, shown: Tensor, data: Dataset, view_name: str, sampling: dict[str, Any]
) -> tuple[Score | None, dict[str, NDArray[Any]]]:
    """Mean distance from a sample to the nearest training image, over the same of as many test
    images: well below 1 where training images are repeated; None where every test image is
    itself a training image, and there is no ratio. The nearest images come with it."""
    train, test, said = alike(model, shown, data, view_name)
    found, usual = nearest(shown, train), nearest(test, train)
    apart = usual.distance.mean().item()
    arrays = {"images": as_bytes(train[found.which]), "distance": found.distance.cpu().numpy()}
    if apart == 0:
        return None, arrays
    ratio = found.distance.mean().item() / apart
    return Score("nearest-ratio", ratio, "", None, said | sampling), arrays


def copied_score(
    model: nn.Module | None,
    samples: Tensor,
    data: Dataset,
    view_name: str,
    sampling: dict[str, Any],
) -> Score:
    """The share of samples that are nearer to a training image than 99% of test images are: about
    0.01 where none is copied. Unlike the mean distance it shows a few copies among many samples.
    Samples without a model are taken for images, not for means."""
    train, test, said = alike(model, samples, data, view_name)
    share = share_nearer(nearest(samples, train).distance, nearest(test, train).distance, CLOSE)
    protocol = said | sampling | {"real": share.usual}
    return Score("copied-share", share.value, "", share.own_std, protocol, share.std)


def alike(
    model: nn.Module | None, samples: Tensor, data: Dataset, view_name: str
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """All training images, and as many test images as there are samples, to be compared with these;
    and the protocol of it.

    Where samples are binary, training images are binarized at 0.5 and test images as the model saw
    its own, so that noise of pixels is on both sides or on neither; else all are grey. Where
    samples are means E[x|z], which are smoother than images and so nearer to any, the means of test
    images take their place.
    """
    images, test_images = data.train_images, data.test_images[: len(samples)]
    protocol = {"dataset": data.name, "view": view_name, "n": len(samples)} | DRAWN
    if model is not None and shows_means(model):
        noise = generator_for(0, 0, samples.device, stream=Stream.RECONSTRUCTIONS)
        test = reconstructions(model, seen(test_images, data.levels, view_name), noise)
        beside = {"beside": "reconstructions of test images"}
        return grey(images, data.levels), test, protocol | beside
    if view_name == "raw" or not ((samples == 0) | (samples == 1)).all():
        return grey(images, data.levels), grey(test_images, data.levels), protocol
    train = view("threshold")(images, data.levels, None)
    return train, seen(test_images, data.levels, view_name), protocol
