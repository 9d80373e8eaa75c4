"""--deterministic: every model trains under it, and a run remembers it."""

import json
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys import MODELS, built, training_data

from triptych.cli import main
from triptych.train.determinism import deterministic
from triptych.train.faults import explain
from triptych.train.order import TrainConfig
from triptych.train.trainer import Run, Trainer


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)


class Recorded(TorchDispatchMode):
    """Names of the operations that are done."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MODELS)
def test_no_model_trains_by_what_a_gpu_cannot_repeat(name, tmp_path):
    """On a CPU, by name: those for which torch.use_deterministic_algorithms raises on a GPU, of the
    list in its documentation."""
    deterministic(True)
    data = training_data(MODELS[name][1])
    trainer = Trainer([built(name)], [Run(0, tmp_path)], data, TrainConfig(batch_size=8))
    with Recorded() as recorded:
        assert trainer.train_step().isfinite().all()
    assert "mul" in recorded.names
    stems = (
        "adaptive_avg_pool",
        "adaptive_max_pool",
        "upsample",
        "pad",
        "grid_sampler",
        "ctc_loss",
    )
    backward = {n for n in recorded.names if "backward" in n and any(s in n for s in stems)}
    assert not backward - {"upsample_nearest2d_backward"}
    raising = {"cumsum", "histc", "bincount", "kthvalue", "median", "put_", "nll_loss2d_forward"}
    assert not recorded.names & raising


def test_a_run_remembers_it_and_is_reproduced_so(tmp_path, capsys):
    words = ["vae-gaussian", "--epochs", "0.3", "--out", str(tmp_path / "a")]
    main(["train", *words, "--deterministic"])
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    run = tmp_path / "a" / "vae-gaussian" / "seed-0"
    assert json.loads((run / "checkpoint" / "loop.json").read_text())["deterministic"] is True
    torch.use_deterministic_algorithms(False)
    main(["reproduce", str(run), "--out", str(tmp_path / "b")])
    again = tmp_path / "b" / "vae-gaussian" / "seed-0"
    assert json.loads((again / "checkpoint" / "loop.json").read_text())["deterministic"] is True


def test_without_it_nothing_is_changed(tmp_path):
    main(["train", "vae-gaussian", "--epochs", "0.1", "--out", str(tmp_path)])
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_cannot_be_repeated_is_named():
    error = RuntimeError(
        "avg_pool3d_backward_cuda does not have a deterministic implementation, but"
    )
    assert explain(error) == (
        1,
        "avg_pool3d_backward_cuda cannot be repeated to the bit; leave out --deterministic",
    )
