"""What torch.compile lacks or cannot do stops no training."""

import torch
from toys import built, training_data

from triptych.train import compiling
from triptych.train.compiling import can_compile, compiled
from triptych.train.fit import Progress, fit
from triptych.train.order import TrainConfig


def test_what_is_missing_is_not_asked_for(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(compiling, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compiling, "find_spec", lambda name: name)
    assert can_compile(gpu)
    assert not can_compile(torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "find_spec", lambda name: None)
        assert not can_compile(gpu)
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "which", lambda name: None)
        assert not can_compile(gpu)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not can_compile(gpu)


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
