"""Trackers copy what is logged, and cannot stop a run."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from triptych.cli import main
from triptych.data import load
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study import trackers
from triptych.study.recipes import override, recipes_for
from triptych.study.run import Job, evaluate, train
from triptych.study.trackers import TRACKERS, Track, check_trackers, id_of, tracking

QUICK = Evaluation(importance_samples=3, elbo_samples=2, images=30)


@pytest.fixture
def job(tmp_path):
    recipe = override(recipes_for("digits")["vae-gaussian"], name="a", hidden=[8], epochs=2)
    return Job(recipe, (0,), tmp_path / "study")


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """Nothing goes anywhere but to the study's folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(trackers, "given_up", set())


def logged(job):
    lines = (job.folder(0).path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["step"], name): row[name] for row in rows for name in row if name != "step"}


def test_tensorboard_and_mlflow_have_the_log_and_the_scores(job):
    data = load("digits")
    names = Track(("tensorboard", "mlflow"), job.study)
    train(job, data, track=names)
    evaluate(job.folder(0), data, QUICK, track=names)
    expected = logged(job)
    step = max(step for step, _ in expected)
    expected |= {(step, f"test {s.metric}"): s.value for s in job.folder(0).scores()}
    assert from_tensorboard(job) == pytest.approx(expected, rel=1e-6)
    assert from_mlflow(job) == pytest.approx(expected, rel=1e-12)


def from_tensorboard(job):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(job.folder(0).path / "tensorboard"))
    found.Reload()
    return {(e.step, n): e.value for n in found.Tags()["scalars"] for e in found.Scalars(n)}


def from_mlflow(job):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{job.study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    names = run.data.metrics
    history = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    return {(m.step, name): m.value for name, rows in history.items() for m in rows}


def test_weights_and_biases_offline_keeps_one_id_and_has_the_log(job):
    train(job, load("digits"), track=Track(("wandb",), job.study))
    time.sleep(1.1)  # a session's folder has the second for a name, and two in one would share it
    with tracking(job.folder(0).path, Track(("wandb",), job.study)) as tell:
        tell(10**6, {"test elbo": -1.0, "not finite": float("nan")})
    expected = logged(job) | {(10**6, "test elbo"): -1.0}
    # Another process writes the files, and goes on after a run is finished
    end = time.monotonic() + 30
    while (found := from_wandb(job)).keys() != expected.keys() and time.monotonic() < end:
        time.sleep(0.1)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected)


def from_wandb(job):
    files = sorted((job.folder(0).path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({f.name for f in files}) == 1
    rows = [row for file in files for row in history(file.read_bytes())]
    found = {(row["step"], k): v for row in rows for k, v in row.items() if k[0] != "_"}
    return {k: v for k, v in found.items() if k[1] != "step"}


def history(raw):
    """The rows of a .wandb file: 7 bytes, then records of LevelDB's log format, which in blocks of
    32 KiB have checksum, length and type before them."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, whole = 7, b""
    while place + 7 < len(raw):
        size, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        if place + 7 + size > len(raw):  # not written yet
            return
        whole += raw[place + 7 : place + 7 + size]
        place += 7 + size
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
        if kind in (1, 4):  # all of a record, or its last part
            record, whole = Record.FromString(whole), b""
            items = record.history.item
            if items:
                yield {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}


class Broken:
    """Fails in the moment that the test chooses."""

    when = "log"

    def __init__(self, run, track, id):
        self.told = 0
        if self.when == "start":
            raise OSError("no way to the server")

    def log(self, lines):
        self.told += len(lines)
        if self.when == "log" and self.told >= 2:
            raise RuntimeError("the server\nis gone")

    def close(self, ending):
        if self.when == "close":
            raise ValueError("never heard of this run")


@pytest.mark.parametrize("when", ["start", "log", "close"])
def test_a_tracker_that_fails_is_given_up_with_one_line(when, job, monkeypatch, capsys):
    monkeypatch.setattr(Broken, "when", when)
    monkeypatch.setitem(TRACKERS, "wandb", (Broken, ()))
    data, track = load("digits"), Track(("wandb",), job.study)
    train(job, data, track=track)
    evaluate(job.folder(0), data, QUICK, track=track)
    assert job.folder(0).failure() is None
    assert max(step for step, _ in logged(job)) == 21
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("triptych: wandb is given up from")


class Stuck(Broken):
    """Never comes back."""

    def log(self, lines):
        threading.Event().wait()


def test_no_run_waits_for_a_tracker(job, monkeypatch, capsys):
    """Not while it trains, and at its end only so long as it is told to."""
    monkeypatch.setitem(TRACKERS, "wandb", (Stuck, ()))
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    track = Track(("wandb",), job.study)
    data, began = load("digits"), time.monotonic()
    train(job, data, track=track)
    evaluate(job.folder(0), data, QUICK, track=track)
    assert time.monotonic() - began < 60
    (line,) = capsys.readouterr().err.splitlines()
    assert "has not taken everything" in line


def test_a_tracker_that_hangs_is_waited_for_once(tmp_path, monkeypatch):
    """Not by each of the seeds that are trained side by side."""
    waited, join = [], threading.Thread.join

    def noted(thread, timeout=None):
        waited.append(timeout)
        join(thread, timeout)

    monkeypatch.setitem(TRACKERS, "wandb", (Stuck, ()))
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    monkeypatch.setattr(trackers, "given_up", set())
    monkeypatch.setattr(threading.Thread, "join", noted)
    with ExitStack() as stack:
        for seed in range(6):
            (tmp_path / str(seed)).mkdir()
            track = tracking(tmp_path / str(seed), Track(("wandb",), tmp_path))
            stack.enter_context(track)(1, {"loss": 1.0})
    assert len(waited) == 6
    assert sum(waited) <= 0.2


def test_what_waits_for_a_tracker_is_handed_over_at_once(tmp_path, monkeypatch):
    """A call of a database for each line is slower than the lines come."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    class Slow(Broken):
        when = "never"

        def log(self, lines):
            begun.set()
            go_on.wait(30)
            calls.append([step for step, _ in lines])

    monkeypatch.setitem(TRACKERS, "wandb", (Slow, ()))
    with tracking(tmp_path, Track(("wandb",), tmp_path)) as tell:
        tell(0, {"loss": 1.0})
        begun.wait(30)
        for step in range(1, 500):
            tell(step, {"loss": 1.0})
        go_on.set()
    assert calls == [[0], list(range(1, 500))]


def test_mlflow_takes_a_thousand_numbers_at_a_time():
    """A server does, which refuses more."""
    taken = []
    tracker = trackers.MLflow.__new__(trackers.MLflow)
    tracker.id = "of the run"
    tracker.client = SimpleNamespace(log_batch=lambda id, metrics: taken.append(metrics))
    tracker.log([(step, {"loss": 1.0 / step, "seconds": 1.0}) for step in range(1, 1302)])
    assert [len(metrics) for metrics in taken] == [1000, 1000, 602]
    assert (taken[-1][-2].key, taken[-1][-2].value, taken[-1][-2].step) == ("loss", 1 / 1301, 1301)


def test_the_end_of_a_run_is_told(job, monkeypatch):
    ends = []

    class Ends(Broken):
        when = "never"

        def close(self, ending):
            ends.append(ending)

    monkeypatch.setitem(TRACKERS, "wandb", (Ends, ()))
    track, run = Track(("wandb",), job.study), job.folder(0).path
    run.mkdir(parents=True)

    def interrupted():
        raise KeyboardInterrupt

    def tell(then=lambda: None):
        with tracking(run, track) as told:
            told(1, {"loss": 1.0})
            then()

    tell()
    tell(lambda: job.folder(0).write_failure("not finite"))
    with pytest.raises(KeyboardInterrupt):
        tell(interrupted)
    assert ends == ["FINISHED", "FAILED", "KILLED"]


def test_a_run_keeps_its_id_and_another_in_its_place_has_a_new_one(tmp_path):
    run = tmp_path / "s" / "a" / "seed-0"
    first = id_of(run)
    assert id_of(run) == first
    (run / "tracked").write_text("' or 1 = 1")
    assert len(id_of(run)) == 32
    shutil.rmtree(run)
    assert id_of(run) != first
    track = Track((), tmp_path / "s")
    assert track.name_of(run) == "a/seed-0"
    assert track.name_of(tmp_path / "s/latent/autoencoder/seed-1") == "latent/autoencoder/seed-1"
    assert track.name_of(tmp_path / "elsewhere/b/seed-2") == "b/seed-2"


def test_weights_and_biases_is_refused_where_it_would_ask_for_an_account(tmp_path):
    hidden = ("WANDB_API_KEY", "WANDB_MODE", "NETRC")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(tmp_path)}
    words = ["train", "vae-gaussian", "--epochs", "0.1", "--track", "wandb", "--out"]
    command = [sys.executable, "-m", "triptych", *words, str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "run `wandb login`" in done.stderr
    assert not (tmp_path / "out").exists()


def test_one_that_is_not_installed_is_refused_before_anything_is_done(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(TRACKERS, "wandb", (Broken, ("no_such_package",)))
    with pytest.raises(UserError, match="no_such_package, not installed"):
        check_trackers(["wandb"])
    with pytest.raises(SystemExit) as stopped:
        main(["train", "vae", "--out", str(tmp_path / "out"), "--track", "wandb"])
    assert stopped.value.code == 2
    assert "pip install 'triptych[trackers]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_imported_and_nothing_written_where_none_is_asked_for(job, monkeypatch):
    monkeypatch.setattr(trackers, "TRACKERS", {})
    train(job, load("digits"))
    assert {p.name for p in job.folder(0).path.iterdir()} == {
        "checkpoint",
        "checkpoint.old",
        "config.json",
        "metrics.jsonl",
    }
