from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pad

from triptych.data import Dataset, load
from triptych.errors import UserError
from triptych.evaluate import classifier
from triptych.evaluate.classifier import (
    CourseNet,
    FeatureNet,
    accuracy,
    course_features,
    features_for,
    grey,
    train_classifier,
    write_features,
)

MNIST = (1, 28, 28)
IMAGES = ("train_images", "validation_images", "test_images")


def test_features_are_learned_by_the_recipe_and_cached_with_their_hash(
    digits, monkeypatch, tmp_path
):
    """A sixth of it is enough for these images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(classifier.RECIPE, "epochs", 2)
    own = replace(digits, name="own")
    features = features_for(own)
    assert features.accuracy > 0.95
    assert accuracy(features.net, digits) == pytest.approx(features.accuracy, abs=0.01)
    monkeypatch.setattr(classifier, "train_classifier", lambda data: pytest.fail("trained again"))
    again = features_for(own)
    assert again.hash == features.hash
    assert again.name == "triptych-own"
    assert len(list((tmp_path / "triptych" / "features").iterdir())) == 1


def test_features_are_kept_by_the_images_that_taught_them(digits, monkeypatch, tmp_path):
    """A part of a data set, or its negative, has its name; and its sha256, where `replace` made
    it."""
    taught = []

    def train(data):
        taught.append(data)
        return FeatureNet(data.shape, data.classes), 0.5

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(classifier, "train_classifier", train)
    own = replace(digits, name="own")
    few = replace(own, train_images=own.train_images[:30], train_labels=own.train_labels[:30])
    negative = replace(own, train_images=16 - own.train_images)
    others = replace(own, train_labels=own.train_labels.roll(1))
    wide = replace(
        digits,
        **{
            f"{part}_images": pad(getattr(digits, f"{part}_images"), (2, 2, 2, 2))
            for part in ("train", "validation", "test")
        },
    )
    for data in (own, few, negative, others, wide):
        first, again = features_for(data), features_for(data)
        assert first.hash == again.hash
    assert taught == [own, few, negative, others, wide]
    assert features_for(digits).accuracy > 0.95  # that ships
    assert len(taught) == 5


@pytest.mark.parametrize("x", [2 * torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8) - 1])
def test_features_are_of_grey_values(x, digit_features):
    with pytest.raises(ValueError, match="grey values from 0 to 1, not"):
        digit_features(x)


def test_features_of_an_image_do_not_depend_on_the_rest_of_the_batch(digit_features, digits):
    """Rescaling a batch to [0, 1] would change a dim image that stands beside bright ones."""
    x = grey(digits.test_images[:20], digits.levels)
    x[0] *= 0.3
    together, alone = digit_features(x), digit_features(x[:1])
    assert together.shape == (20, 128)
    assert together.dtype == torch.float64
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, digit_features(x[:1] / x[0].max()), rtol=1e-2)


def test_features_are_the_same_every_time(digit_features, digits):
    """Dropout is a matter of training."""
    x = grey(digits.test_images[:5], digits.levels)
    assert torch.equal(digit_features(x), digit_features(x))


def test_other_weights_have_another_hash(tmp_path, digits):
    hashes = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        path = tmp_path / "f.safetensors"
        write_features(path, FeatureNet(digits.shape), 0.5)
        features = features_for(digits, path)
        hashes.add(features.hash)
        assert features.accuracy == 0.5
        assert not features.net.training
    assert len(hashes) == 2


def test_labels_of_one_class_teach_no_features(digits):
    parts = ("train_labels", "validation_labels", "test_labels")
    unlabelled = replace(digits, **{p: torch.zeros_like(getattr(digits, p)) for p in parts})
    with pytest.raises(UserError, match="digits has labels of one class, or none"):
        train_classifier(unlabelled)


def test_images_without_a_difference_have_no_features(digits, monkeypatch):
    monkeypatch.setitem(classifier.RECIPE, "epochs", 1)
    blank = replace(digits, **{p: torch.zeros_like(getattr(digits, p)) for p in IMAGES})
    with pytest.raises(UserError, match="cannot tell the test images of digits apart"):
        train_classifier(blank)


def test_images_too_small_for_features_are_refused():
    FeatureNet((1, 4, 4))
    with pytest.raises(UserError, match="3x4 images are too small for the classifier"):
        FeatureNet((1, 3, 4))


class Screen(StringIO):
    """A terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Screen, StringIO, lambda: None])
def test_features_are_learned_with_a_bar_where_somebody_watches(stream, digits, monkeypatch):
    """It takes minutes where images are large. A log would be filled with it; a daemon has none."""
    monkeypatch.setitem(classifier.RECIPE, "epochs", 1)
    err = stream()
    monkeypatch.setattr("sys.stderr", err)
    train_classifier(digits)
    shown = err.getvalue() if err else ""
    assert ("feature network of digits:" in shown) == isinstance(err, Screen)
    assert shown or not isinstance(err, Screen)


def test_features_are_learned_on_the_cpu_wherever_the_data_are(digits, monkeypatch):
    class Elsewhere(Dataset):
        def to(self, device):
            assert device == "cpu"
            return digits

    for name, value in (("epochs", 1), ("batch", 2000)):
        monkeypatch.setitem(classifier.RECIPE, name, value)
    elsewhere = Elsewhere(**vars(digits.to("meta")))
    net, reached = train_classifier(elsewhere)
    assert 0 < reached <= 1
    assert all(p.device.type == "cpu" for p in net.parameters())


def test_mnist_features_have_128_dimensions_and_fit_a_megabyte(tmp_path):
    net = FeatureNet(MNIST)
    assert net.features(torch.rand(2, *MNIST)).shape == (2, 128)
    write_features(tmp_path / "f.safetensors", net, 0.99)
    assert (tmp_path / "f.safetensors").stat().st_size < 1_000_000


def test_features_are_read_from_a_file_as_they_are_from_the_cache(tmp_path, digit_features, digits):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(classifier.SHIPPED["digits"].read_bytes())
    features = features_for(replace(digits, name="own"), path)
    assert (features.name, features.hash) == ("mine.safetensors", digit_features.hash)
    x = grey(digits.test_images[:5], digits.levels)
    assert torch.equal(features(x), digit_features(x))


def test_a_file_with_features_of_something_else_is_refused(tmp_path, digits):
    path = tmp_path / "mine.safetensors"
    write_features(path, FeatureNet(digits.shape, classes=7), 0.5)
    others = path.read_bytes()
    for content in (b"", b"not safe tensors", others[:-9], others):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"no features of 8x8 images of 10 classes; .*digits"):
            features_for(digits, path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(classifier, "LARGEST_FILE", 10)
    path = tmp_path / "mine.safetensors"
    path.write_bytes(bytes(11))
    for read in (lambda: features_for(digits, path), lambda: course_features(path, MNIST)):
        with pytest.raises(UserError, match=r"mine\.safetensors is larger than 10 bytes"):
            read()


def test_a_file_that_cannot_be_opened_says_why(tmp_path, digits):
    (tmp_path / "mine.safetensors").mkdir()
    for read in (features_for, lambda d, path: course_features(path, MNIST)):
        with pytest.raises(UserError, match=r"mine\.safetensors cannot be read \(Is a directory\)"):
            read(digits, tmp_path / "mine.safetensors")


# --- the course's network ---


@pytest.fixture
def course_file(tmp_path):
    path = tmp_path / "mnist_classifier.pth"
    torch.save(CourseNet().state_dict(), path)
    return path


def test_the_courses_network_is_read_from_its_state_dict(course_file):
    features = course_features(course_file, MNIST)
    x = torch.rand(3, *MNIST)
    assert features(x).shape == (3, 128)
    assert features.name == "mnist_classifier.pth"
    assert features.accuracy is None
    weights = torch.load(course_file, weights_only=True)
    torch.testing.assert_close(features.net.state_dict(), weights)


class Mischief:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"layers.0.weight": Mischief(trace)}, path)
    with pytest.raises(UserError, match="not the course's"):
        course_features(path, MNIST)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_wrong_files_are_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "wrong.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="name that file") as caught:
        course_features(path, MNIST)
    assert "\n" not in str(caught.value)


def test_other_networks_missing_files_and_other_sizes_are_refused(tmp_path, course_file, digits):
    other = tmp_path / "other.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    with pytest.raises(UserError, match="not the course's"):
        course_features(other, MNIST)
    for name in ("none.pth", "none.safetensors"):  # of any size
        with pytest.raises(UserError, match="does not exist"):
            features_for(digits, tmp_path / name)
    with pytest.raises(UserError, match="needs 28x28 images, not 8x8"):
        course_features(course_file, (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "least"), [("digits", 0.98), pytest.param("mnist", 0.99, marks=pytest.mark.mnist)]
)
def test_the_shipped_weights_are_as_accurate_as_their_header_says(name, least, request):
    folder = request.getfixturevalue("real_mnist") if name == "mnist" else None
    data = load(name, folder)
    features = features_for(data)
    assert features.name == f"triptych-{name}"
    assert features.accuracy is not None
    assert features.accuracy >= least
    assert classifier.accuracy(features.net, data) == pytest.approx(features.accuracy, abs=2e-4)


def test_the_shipped_weights_are_below_a_megabyte():
    assert all(len(file.read_bytes()) < 2**20 for file in classifier.SHIPPED.values())
