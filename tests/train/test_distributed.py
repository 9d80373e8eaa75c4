"""Several processes follow the training of one: torchrun, gloo."""

import gc
import json
import os
import subprocess
import sys
import time
import warnings
import weakref
from socket import socket

import pytest
import torch
import torch.distributed as dist
from torch.utils._pytree import tree_map
from toys import MODELS, built, training_data

from triptych.cli import main
from triptych.errors import RunFailed, UserError
from triptych.nets.conv import PatchNet
from triptych.train import checkpoint, distributed, fit, trainer
from triptych.train.batches import step_noise
from triptych.train.distributed import check_batch, image_dimensions, joined, parallel, share
from triptych.train.order import generator_for
from triptych.train.signals import StopRequested

PROGRAM = """
import gc
import os
from pathlib import Path

from triptych.cli import main

gc.disable()
try:
    main()
finally:
    names = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    left = " ".join(name for name in names if "gloo" in name)
    os.write(2, f"threads left:{left}\\n".encode())
"""
IN_FP32 = """
import triptych.train.fit as fit
import triptych.train.trainer as trainer

fit.bf16_helps = lambda device: False
trainer.total_steps = lambda config, n: {}
"""


@pytest.fixture
def program(tmp_path):
    """Trains, and then tells which of gloo's threads outlive the group."""
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def torchrun(out, words, program):
    """One run that two processes train."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "2", str(program), "train", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, "--out", str(out)], text=True, **pipes)


def ranks(out, words, program):
    """The same without what starts and stops them."""
    with socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(program), "train", *words, "--out", str(out)]
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return [
        subprocess.Popen(command, env=env | {"RANK": r, "LOCAL_RANK": r}, text=True, **pipes)
        for r in "01"
    ]


def train(out, words, program):
    """Two processes train it to its end; returns what they printed."""
    told, said = zip(*(p.communicate(timeout=300) for p in ranks(out, words, program)), strict=True)
    for one in said:
        assert one.endswith("threads left:\n")
        assert "Warning" not in one
    return "".join(told)


def wait_for(condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 120
        time.sleep(0.02)


def log_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def follows(tmp_path, program, monkeypatch):
    """Trains in two processes and in one and compares the loss curves: in fp32, for in bf16 a sum
    that is rounded otherwise soon shows. Returns the run of the two."""

    def compare(*words, steps):
        program.write_text(IN_FP32.format(steps) + PROGRAM)
        monkeypatch.setattr(fit, "bf16_helps", lambda device: False)
        monkeypatch.setattr(trainer, "total_steps", lambda config, n: steps)
        assert train(tmp_path / "two", words, program).count("wrote") == 1
        main(["train", *words, "--out", str(tmp_path / "one")])
        runs = [next((tmp_path / n).glob("*/seed-0")) for n in ("one", "two")]
        one, two = map(log_of, runs)
        assert len(one) == len(two) > 3
        for a, b in zip(one, two, strict=True):
            assert a.keys() == b.keys()
            numbers = ("step", "loss", "validation")
            assert {k: b[k] for k in numbers if k in b} == pytest.approx(
                {k: a[k] for k in numbers if k in a}, rel=1e-3
            )
        return runs[1]

    return compare


def test_two_processes_follow_the_loss_curve_of_one(follows):
    follows("latent-ddpm", steps=20)


@pytest.mark.parametrize("name", MODELS)
def test_the_shares_of_a_batch_are_its_images_with_their_noise(name, monkeypatch):
    model = built(name).eval()
    data = training_data(MODELS[name][1], n=6)
    g = generator_for(0, 0, torch.device("cpu"))
    x = data.view(data.images, data.levels, g)
    where = image_dimensions(lambda n: step_noise(model, n, g))
    noise = step_noise(model, 6, g)
    whole = model.loss(x, noise)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed.dist, "get_rank", lambda rank=rank: rank)
        part = model.loss(share(x, 0), tree_map(share, noise, where))
        torch.testing.assert_close(part, whole[rank::2])


def test_gradients_of_another_layout_are_averaged_without_a_word(monkeypatch):
    def two_steps():
        net = parallel(PatchNet((2, 4, 4), 8, 4), torch.device("cpu"))
        for _ in range(2):  # in the first, which graph it is that stays is found
            net(torch.randn(32, 2, 4, 4)).sum().backward()

    torch.set_warn_always(True)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            monkeypatch.setattr(distributed, "world", lambda: 2)
            two_steps()
        assert not said
    finally:
        gc.collect()  # what holds the group when it is destroyed may wait for ever
        dist.destroy_process_group()
        torch.set_warn_always(False)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    check_batch(9)
    with pytest.raises(UserError, match=r"batch_size = 10 cannot be shared by 3.*multiple of 3"):
        check_batch(10)


def test_a_lost_process_ends_the_others_with_a_sentence(tmp_path, program):
    left, lost = ranks(tmp_path, ["vae-gaussian", "--epochs", "900"], program)
    wait_for(lambda: list(tmp_path.glob("*/seed-0/metrics.jsonl")))
    lost.kill()
    _, said = left.communicate(timeout=120)
    lost.communicate()
    assert left.returncode == 1, said
    assert "another process of this training cannot be reached" in said
    assert "Traceback" not in said
    assert said.endswith("threads left:\n")


@pytest.mark.parametrize("error", [StopRequested(1, 2), RuntimeError("Connection reset")])
def test_nothing_holds_a_group_that_is_destroyed(error, monkeypatch):
    """Not even the frames that the error came through: the last holder would join gloo's threads
    without letting them have Python, for which one of them may wait."""
    models, left = [], []

    def training():
        model = torch.nn.Linear(1, 1)
        models.append(weakref.ref(model))
        raise error

    def destroy():
        left.append(models[0]())

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", destroy)
    with pytest.raises((StopRequested, RunFailed)), joined("cpu"):
        training()
    assert left == [None]


def test_what_torchrun_asks_for_must_be_there(monkeypatch, capsys, tmp_path):
    """Refused before anything is written."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device, said in (("cuda", "has 1 GPUs"), ("mps", "cannot train with others")):
        with pytest.raises(SystemExit) as left:
            main(["train", "vae", "--device", device, "--out", str(tmp_path)])
        assert left.value.code == 2
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_is_refused_leaves_no_run_behind(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(SystemExit):
        main(["train", "vae", "--batch-size", "31", "--out", str(tmp_path)])
    assert "choose a multiple of 2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_processes_that_torchrun_stops_save_the_same_step_and_go_on(
    tmp_path, capsys, program, follows
):
    """What one process is told, all do at one step; the run ends as if it had not been stopped."""
    words = ["vae", "--prior", "resampled"]
    other = follows(*words, steps=120)
    run = tmp_path / "stopped" / other.parent.name / "seed-0"
    with torchrun(tmp_path / "stopped", words, program) as process:
        wait_for(lambda: (run / "metrics.jsonl").exists() and len(log_of(run)) > 3)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert said.count("threads left:\n") == 2, said
    step = checkpoint.load(run).loop["step"]
    assert 0 < step < checkpoint.load(run).loop["steps"]
    train(tmp_path / "stopped", [*words, "--resume"], program)
    ours, theirs = checkpoint.load(other), checkpoint.load(run)
    for name, weight in ours.model.items():
        assert torch.equal(weight, theirs.model[name]), name
    assert [m["step"] for m in log_of(run)] == [m["step"] for m in log_of(other)]
    with pytest.raises(SystemExit):
        main(["reproduce", str(run), "--out", str(tmp_path / "again")])
    assert "trained by 2 processes" in capsys.readouterr().err
