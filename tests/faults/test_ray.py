"""A study of 12 runs on 3 workers of a local Ray cluster, whose workers and driver are killed.

Starts Ray clusters, so it runs where TRIPTYCH_RAY is set. It prints what docs/faults.md says.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from triptych.data import load
from triptych.study.builtin import named_study
from triptych.study.execute import execute
from triptych.study.local import Place
from triptych.train import checkpoint

pytestmark = pytest.mark.skipif("TRIPTYCH_RAY" not in os.environ, reason="starts Ray clusters")
STUDY = """
name = "twelve"
seeds = 3

[evaluation]
importance_samples = 3
elbo_samples = 2
images = 30
""" + "".join(
    f'\n[[recipe]]\nbase = "vae-{prior}"\nname = "{prior}"\nepochs = {epochs}\nhidden = [8]\n'
    for prior, epochs in (("gaussian", 30), ("mixture", 30), ("flow", 12), ("vamp", 12))
)
PLACE = Place("digits", None, None, torch.device("cpu"))


def runs_of(folder):
    return sorted(p.parent for p in folder.glob("*/seed-*/config.json"))


def weights(run):
    saved = checkpoint.load(run)
    return saved.model | {f"ema {k}": v for k, v in saved.ema.items()}


def started(file, out):
    words = ["study", str(file), "--out", str(out), "--on", "ray", "--workers", "3"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "triptych", *words], **pipes)


def wait_for(happened, process, seconds=300):
    """What `happened` returns, once it is something."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert process.poll() is None, "the study ended first"
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def in_training(out):
    """(process, run) of the runs that have a checkpoint and an owner, but no scores."""
    found = []
    for run in runs_of(out):
        owner = (run / "lock").read_text() if (run / "lock").exists() else ""
        if owner and checkpoint.exists(run) and not (run / "scores.json").exists():
            found.append((json.loads(owner)["pid"], run))
    return found


def timeless(results):
    """The scores that no clock is in."""
    return [s for s in results["scores"] if "per-second" not in s["metric"]]


def finished(out):
    return [run for run in runs_of(out) if (run / "scores.json").exists()]


def test_twelve_runs_survive_a_killed_worker_and_a_killed_driver(tmp_path):
    file = tmp_path / "twelve.toml"
    file.write_text(STUDY)
    asked = named_study(str(file))
    serial = execute(asked, tmp_path / "serial", PLACE, lambda job, said: None, 1)
    out = tmp_path / "ray"

    driver = started(file, out)
    worker, _ = wait_for(lambda: in_training(out), driver)[0]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(finished(out)) >= 4, driver)
    driver.kill()
    driver.wait()
    before = len(finished(out))
    assert before < 12
    again = started(file, out)
    assert again.wait(600) == 0

    found = json.loads((out / "results.json").read_text())
    assert found["failures"] == []
    assert len(finished(out)) == 12
    assert timeless(found) == timeless(json.loads(json.dumps(serial.results)))
    for ours, theirs in zip(runs_of(out), runs_of(tmp_path / "serial"), strict=True):
        mine, other = weights(ours), weights(theirs)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[k], other[k]) for k in mine), ours
    print(f"\n12 runs, {before} finished when the driver was killed: scores and weights equal")


def test_what_ray_costs_a_run(tmp_path):
    """Wall clock of a study of 12 runs on one Ray worker, less that of the same runs here."""
    file = tmp_path / "twelve.toml"
    file.write_text(STUDY)
    load("digits")
    seconds = []
    for name, on in (("here", []), ("there", ["--on", "ray"])):
        words = ["study", str(file), "--out", str(tmp_path / name), "--workers", "1", *on]
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "triptych", *words], check=True)
        seconds.append(time.monotonic() - began)
    here, there = seconds
    runs = len(finished(tmp_path / "there"))
    assert runs == len(finished(tmp_path / "here")) == 12
    print(f"\nhere {here:.1f} s, on Ray {there:.1f} s: {(there - here) / runs:.2f} s a run")
