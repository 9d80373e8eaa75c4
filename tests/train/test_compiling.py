"""A compiled loss is the loss, and what torch.compile lacks or cannot do stops no training."""

import os
import subprocess
import sys

import pytest
import torch
from toys import built, training_data

from triptych.train import compiling
from triptych.train.compiling import can_compile, compiled
from triptych.train.fit import Progress, fit
from triptych.train.order import TrainConfig

CPU = torch.device("cpu")
PROGRAM = """
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import softplus

from triptych.data import load, view
from triptych.train import trainer
from triptych.train.batches import TrainingData
from triptych.train.order import TrainConfig
from triptych.train.trainer import Run, Trainer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def noise(self, n, generator):
        return {"eps": torch.randn(n, 64, generator=generator)}

    def loss(self, x, noise):
        return softplus(self.layer(x.flatten(1) + noise["eps"]).exp() - 1).log().square().sum(1)


data = load("digits")
data = TrainingData(data.train_images, data.validation_images, view("dynamic"), data.levels)


def losses(worth):
    trainer.WORTH_COMPILING = worth
    torch.manual_seed(0)
    trained = Trainer([Model()], [Run(0, Path(sys.argv[1]))], data, TrainConfig(epochs=4, lr=0.01))
    print(trained.compiles)
    return torch.stack([trained.train_step() for _ in range(30)])


compiled, eager = losses(0), losses(10**9)
assert eager[-1] < 0.9 * eager[0]
torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=0)
"""


@pytest.mark.skipif(not can_compile(CPU), reason="needs a C++ compiler and Python's headers")
def test_a_compiled_training_is_the_training(tmp_path):
    """Without the checks of shapes, which torch.compile does not see through."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False"]
    assert "failed" not in done.stderr
    assert list(tmp_path.rglob("*.so"))


def test_what_is_missing_is_not_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.sys, "platform", "linux")
    monkeypatch.setattr(compiling, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compiling, "get_path", lambda name: str(tmp_path))
    assert not can_compile(CPU)
    (tmp_path / "Python.h").touch()
    assert can_compile(CPU)
    assert not can_compile(torch.device("mps"))
    monkeypatch.setattr(compiling, "find_spec", lambda name: name)
    assert can_compile(torch.device("cuda"))
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert not can_compile(torch.device("cuda"))
    monkeypatch.setattr(compiling.torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not can_compile(CPU)
    monkeypatch.undo()
    monkeypatch.setattr(compiling, "which", lambda name: None)
    assert not can_compile(CPU)


def test_a_compiler_that_fails_is_tried_once_and_done_without(monkeypatch, capsys):
    from torch._dynamo.exc import TorchDynamoException

    tried = []

    def fails(f, dynamic):
        def run(*arguments):
            tried.append(arguments)
            raise TorchDynamoException("a page of C++")

        return run

    monkeypatch.setattr(compiling.torch, "compile", fails)
    double = compiled(lambda x: 2 * x)
    for _ in range(3):
        assert double(torch.ones(1)).item() == 2
    assert len(tried) == 1
    assert capsys.readouterr().err.count("torch.compile has failed") == 1


def test_who_waits_for_the_compiler_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("triptych.train.trainer.WORTH_COMPILING", 0)
    monkeypatch.setattr("triptych.train.trainer.can_compile", lambda device: True)
    monkeypatch.setattr("triptych.train.trainer.compiled", lambda losses: losses)
    said: list[Progress] = []
    config = TrainConfig(epochs=1, batch_size=8, bf16=False)
    data = training_data("dynamic")
    fit([built("vae-mixture")], [0], [tmp_path], data, config, progress=said.append)
    assert str(said[0]) == "compiling"
    assert all(str(p).startswith("loss ") for p in said[1:])
    assert [p.step for p in said] == sorted(p.step for p in said)
