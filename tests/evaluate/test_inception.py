"""Inception's features and the distances on them, against torch-fidelity's own functions."""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

from triptych.data import Dataset
from triptych.errors import UserError
from triptych.evaluate import inception
from triptych.evaluate.classifier import features_for
from triptych.evaluate.fidelity import kernel_distance, shuffled
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.evaluate.judge_samples import sample_scores


@pytest.fixture(scope="module")
def peer():
    """torch-fidelity; with an empty torchvision, which Inception does not use, where there is none
    or one for another torch than this."""
    try:
        import torch_fidelity
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
            del sys.modules[name]  # half imported
        names = ("torchvision", "torchvision.datasets", "torchvision.transforms")
        with pytest.MonkeyPatch.context() as patch:
            for name in (*names, "torchvision.transforms.functional"):
                patch.setitem(sys.modules, name, MagicMock())
            import torch_fidelity
    return torch_fidelity


@pytest.fixture(scope="module")
def weights(peer, tmp_path_factory):
    """A file with the names and shapes of Inception's weights, drawn anew."""
    path = tmp_path_factory.mktemp("weights") / "weights-inception-drawn.pth"
    with pytest.MonkeyPatch.context() as patch:
        module = peer.feature_extractor_inceptionv3
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *a, **k: None)
        network = module.FeatureExtractorInceptionV3("drawn", ["2048"])
    torch.save(network.state_dict(), path)
    return path


def data(shape=(1, 8, 8)):
    none = torch.zeros(0, *shape, dtype=torch.uint8)
    labels = torch.zeros(0, dtype=torch.long)
    return Dataset("any", 256, none, labels, none, labels, none, labels, "")


def test_features_are_those_of_torch_fidelity(peer, weights):
    features = features_for(data(), weights)
    levels = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    theirs = peer.FeatureExtractorInceptionV3(
        "peer", ["2048"], feature_extractor_weights_path=str(weights)
    ).eval()
    with torch.no_grad():
        (expected,) = theirs(levels.expand(-1, 3, -1, -1))
    found = features(levels / 255)
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-5)
    assert features.name == "inception-v3"
    with pytest.raises(ValueError, match="from 0 to 1, not nan"):
        features(torch.full((1, 1, 8, 8), torch.nan))


def test_its_classes_are_not_those_of_the_images(weights, digits, monkeypatch):
    """The distance itself, in 2,048 dimensions, takes its time and is not looked at."""
    monkeypatch.setattr("triptych.evaluate.judge_samples.frechet_distance", lambda a, b: 1.0)
    scores, _ = sample_scores(torch.rand(2, 1, 8, 8), digits, features_for(digits, weights), {})
    assert [score.metric for score in scores] == ["fid"]


def test_distances_are_those_of_torch_fidelity(peer):
    if not hasattr(peer.metric_kid, "kernel_mmd"):
        pytest.skip("torch-fidelity before 0.4 has no kernel distance by itself")
    a, b = torch.randn(300, 12).double(), 0.3 + 1.2 * torch.randn(300, 12).double()
    stats = [peer.metric_fid.fid_features_to_statistics(x) for x in (a, b)]
    named = peer.metric_fid.fid_statistics_to_metric(*stats, False)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(*named.values(), rel=1e-9)
    blocks = [
        peer.metric_kid.kernel_mmd(x.numpy(), y.numpy(), kid_kernel="poly")
        for x, y in zip(shuffled(a).split(30), shuffled(b).split(30), strict=True)
    ]
    assert kernel_distance(a, b).value == pytest.approx(np.mean(blocks), rel=1e-9)


def test_another_file_is_refused_without_running_it(peer, tmp_path):
    class Runs:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "weights-inception-x.pth"
    with pytest.raises(UserError, match="does not exist"):
        features_for(data(), path)
    for content in (b"", b"zeros" * 99):
        path.write_bytes(content)
        with pytest.raises(UserError, match="Inception"):
            features_for(data(), path)
    torch.save({"fc.weight": Runs()}, path)
    with pytest.raises(UserError, match="Inception"):
        features_for(data(), path)
    assert not (tmp_path / "ran").exists()


def test_weights_are_fetched_once_and_a_wrong_file_is_not_kept(peer, tmp_path, monkeypatch):
    came = []

    def retrieve(url, known_hash, name, folder, progressbar):
        came.append(url)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"right" if len(came) > 1 else b"wrong")

    monkeypatch.setattr(inception.pooch, "os_cache", lambda name: tmp_path)
    monkeypatch.setattr(inception.pooch, "retrieve", retrieve)
    digits = {b"right": "6726825d0", b"wrong": "9"}
    monkeypatch.setattr(inception.pooch, "file_hash", lambda p: digits[Path(p).read_bytes()])
    with pytest.raises(UserError, match="another checksum"):
        inception.fetched()
    assert list((tmp_path / "features").iterdir()) == []
    path = inception.fetched()
    assert inception.fetched() == path
    assert path.read_bytes() == b"right"
    assert len(came) == 2


def test_without_torch_fidelity_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"triptych\[fidelity\]"):
        inception.read_inception(Path("inception"))
