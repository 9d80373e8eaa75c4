"""The small classifiers whose features the Frechet distance compares.

A data set's own labels train a 128-d feature network by a fixed recipe. For MNIST and the digits
its weights ship with the package (written by `triptych train-features`), and are the same on all
machines; for the others they are trained once and cached. A file can stand in: one that this
command wrote, the course's network, Inception's.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import pooch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from triptych.data import Dataset
from triptych.errors import UserError
from triptych.evaluate.inception import WORD, is_inception, read_inception
from triptych.evaluate.memory import in_halves
from triptych.train.files import write_bytes
from triptych.train.order import Stream, batch_indices, generator_for

RECIPE = {"version": 1, "epochs": 12, "batch": 128, "lr": 2e-3, "dropout": 0.5}
LEAST_SPREAD = 1e-3  # of a feature over images; that of the digits: 1.4
LARGEST_FILE = 2**26  # bytes; the course's 1.2 million weights take 5 MB
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28)}  # of the sets whose features ship
SHIPPED = {n: files("triptych.evaluate") / f"{n}_features.safetensors" for n in SHAPES}


class FeatureNet(nn.Module):
    """Two 3x3 convolutions with pooling, 128 features, a linear head. Input in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int], classes: int = 10) -> None:
        super().__init__()
        c, h, w = shape
        if min(h, w) < 4:
            raise UserError(
                f"{h}x{w} images are too small for the classifier that FID needs; choose images of "
                f"4x4 or more, or models of part A"
            )
        self.features = nn.Sequential(
            nn.Conv2d(c, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(RECIPE["dropout"]),
            nn.Linear(64 * (h // 4) * (w // 4), 128),
        )
        self.head = nn.Sequential(nn.Dropout(RECIPE["dropout"]), nn.Linear(128, classes))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        return self.head(self.features(x))


class CourseNet(nn.Module):
    """The classifier that the course hands out as `mnist_classifier.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(9216, 128),
            nn.Dropout(0.5),
        )
        self.classification_layer = nn.Sequential(nn.Linear(128, 10))

    @property
    def features(self) -> nn.Module:
        return self.layers

    @property
    def head(self) -> nn.Module:
        return self.classification_layer


@dataclass(frozen=True)
class Features:
    """A feature network, its name and the hash of its weights."""

    net: nn.Module
    name: str
    hash: str
    accuracy: float | None

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        """Features in float64 of grey images in [0, 1], which are never rescaled. ValueError for
        others."""
        low, high = x.min().item(), x.max().item()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"features are of grey values from 0 to 1, not {low:g} to {high:g}")
        net: Any = self.net.features
        parts = [in_halves(lambda c: net(2 * c - 1), c).double() for c in x.split(500)]
        return torch.cat(parts)

    @property
    def classifies(self) -> bool:
        """Whether the network knows the data's classes."""
        return hasattr(self.net, "head")

    @torch.no_grad()
    def logits(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N classes"]:
        """What the classifier makes of features."""
        return self.net.head(features.float())  # pyright: ignore[reportCallIssue]

    def to(self, device: torch.device) -> "Features":
        """The same features on another device."""
        return Features(self.net.to(device), self.name, self.hash, self.accuracy)


def features_for(data: Dataset, file: Path | None = None) -> Features:
    """The feature network of a data set: a file's, shipped, cached, or trained now."""
    if file is not None:
        return features_in(file, data)
    if data.shape == SHAPES.get(data.name):
        return _unpack(SHIPPED[data.name].read_bytes(), data, f"triptych-{data.name}")
    key = hashlib.sha256(json.dumps([RECIPE, trained_on(data)]).encode()).hexdigest()[:12]
    path = Path(pooch.os_cache("triptych")) / "features" / f"{data.name}-{key}.safetensors"
    try:
        return _unpack(path.read_bytes(), data, f"triptych-{data.name}")
    except UNREADABLE:
        pass  # not there yet, or damaged
    raw = packed(*train_classifier(data))
    try:
        write_bytes(path, raw)
    except OSError as error:
        told = f"{path} could not be kept ({error.strerror}), so every command trains it anew"
        print(f"triptych: {told}; XDG_CACHE_HOME may name another folder", file=sys.stderr)
    return _unpack(raw, data, f"triptych-{data.name}")


def trained_on(data: Dataset) -> str:
    """A hash of the images that a classifier learns from, which may be some of a data set's."""
    content = hashlib.sha256(f"{data.levels} {data.classes} {data.train_images.shape}".encode())
    for part in (data.train_images, data.train_labels):
        content.update(part.cpu().numpy().tobytes())
    return content.hexdigest()


def train_classifier(data: Dataset) -> tuple[FeatureNet, float]:
    """Train by the fixed recipe; returns the network and its accuracy on the test images.

    Adam with a cosine from lr to 0. Few images get as many steps as 20,000 would. On the CPU
    wherever the data are, so that machines have the same features but for rounding.

    Raises:
        UserError: labels of one class, which teach it nothing; images that all have one and the
            same features in the end, between which every FID is 0.
    """
    data = data.to("cpu")
    if data.classes < 2:
        raise UserError(
            f"{data.name} has labels of one class, or none, from which no features are learned; "
            f"label the images, or judge samples with --features inception"
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = FeatureNet(data.shape, data.classes)
        images, labels = data.train_images, data.train_labels
        batch = RECIPE["batch"]
        steps = RECIPE["epochs"] * max(len(images), 20_000) // batch
        optimizer = torch.optim.Adam(net.parameters(), lr=RECIPE["lr"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        watched = sys.stderr is not None and sys.stderr.isatty()
        bar = f"feature network of {data.name}"
        for step in tqdm(range(steps), bar, leave=False, disable=not watched):
            index = batch_indices(0, step, batch, len(images))
            x = _shift(grey(images[index], data.levels), step)
            loss = cross_entropy(net(2 * x - 1), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    if not spread(net, data) >= LEAST_SPREAD:
        raise UserError(
            f"a classifier cannot tell the test images of {data.name} apart: all have the same "
            f"features, and every FID would be 0; see that images and labels belong together, or "
            f"judge samples with --features inception"
        )
    return net, accuracy(net, data)


def _shift(x: Tensor, step: int) -> Tensor:
    """Move a batch by up to one pixel in each direction, the only augmentation."""
    g = generator_for(0, step, torch.device("cpu"), stream=Stream.CLASSIFIER_SHIFTS)
    dy, dx = (torch.randint(-1, 2, (2,), generator=g)).tolist()
    return x.roll((dy, dx), (-2, -1))


@torch.no_grad()
def accuracy(net: nn.Module, data: Dataset) -> float:
    """Share of the test images that the classifier gets right."""
    x = grey(data.test_images, data.levels)
    guesses = torch.cat([net(2 * c - 1).argmax(1) for c in x.split(500)])
    return (guesses == data.test_labels).double().mean().item()


@torch.no_grad()
def spread(net: FeatureNet, data: Dataset) -> float:
    """The standard deviation over test images of the feature that differs most."""
    features = net.features(2 * grey(data.test_images[:500], data.levels) - 1)
    return features.std(0, correction=0).max().item()


def grey(images: Tensor, levels: int) -> Tensor:
    """Integer images as grey values in [0, 1]."""
    return images.float() / (levels - 1)


def write_features(path: Path, net: nn.Module, accuracy: float) -> None:
    """Write the file that `packed` gives."""
    write_bytes(path, packed(net, accuracy))


def packed(net: nn.Module, accuracy: float) -> bytes:
    """The weights in half precision, with their accuracy in the header."""
    tensors = {k: v.half() for k, v in net.state_dict().items()}
    return save_bytes(tensors, metadata={"accuracy": f"{accuracy:.4f}"})


def _unpack(raw: bytes, data: Dataset, name: str) -> Features:
    net = FeatureNet(data.shape, data.classes)
    net.load_state_dict({k: v.float() for k, v in load_bytes(raw).items()})
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return _of_weights(net, name, raw, float(header["__metadata__"]["accuracy"]))


def features_in(path: Path, data: Dataset) -> Features:
    """The feature network that a file holds, of one of three kinds.

    Raises:
        UserError: no such file, or another content than its name announces.
    """
    if is_inception(path):
        net, raw = read_inception(path)
        return _of_weights(net, "inception-v3", raw)
    if not path.exists():
        raise UserError(f"--features {path} does not exist; name a file, or {WORD}")
    if path.suffix == ".safetensors":
        return own_features(path, data)
    return course_features(path, data.shape)


def own_features(path: Path, data: Dataset) -> Features:
    """Those that `triptych train-features` wrote, for images and classes like these."""
    raw = _bytes(path)
    try:
        return _unpack(raw, data, path.name)
    except UNREADABLE as error:
        height, width = data.shape[1:]
        raise UserError(
            f"--features {path} holds no features of {height}x{width} images of {data.classes} "
            f"classes; write it with triptych train-features {data.name}"
        ) from error


def course_features(path: Path, shape: tuple[int, int, int]) -> Features:
    """The course's classifier from its state dict (keys layers.*, classification_layer.0.*)."""
    if shape != (1, 28, 28):
        raise UserError(f"--features {path} needs 28x28 images, not {shape[1]}x{shape[2]}")
    raw = _bytes(path)
    try:
        net = CourseNet()
        net.load_state_dict(torch.load(BytesIO(raw), map_location="cpu", weights_only=True))
    except Exception as error:
        raise UserError(
            f"--features {path} is not the course's mnist_classifier.pth (a state dict with keys "
            f"layers.* and classification_layer.0.*); name that file"
        ) from error
    return _of_weights(net, path.name, raw)


def _of_weights(net: nn.Module, name: str, raw: bytes, accuracy: float | None = None) -> Features:
    """With the hash of the file that the weights are from."""
    return Features(net.eval(), name, hashlib.sha256(raw).hexdigest()[:12], accuracy)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(
                f"--features {path} is larger than {LARGEST_FILE} bytes, and no feature network; "
                f"name the file of one"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"--features {path} cannot be read ({error.strerror}); name a file that can"
        ) from None
