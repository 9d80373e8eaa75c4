"""Trackers copy what is logged, and cannot stop a run."""

import json

import pytest

from triptych.cli import main
from triptych.data import load
from triptych.evaluate.evaluation import Evaluation
from triptych.protocols import UserError
from triptych.study import trackers
from triptych.study.recipes import override, recipes_for
from triptych.study.run import Job, evaluate, train
from triptych.study.trackers import TRACKERS, check_trackers, tracking

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


def logged(job):
    lines = (job.folder(0).path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["step"], name): row[name] for row in rows for name in row if name != "step"}


def test_tensorboard_and_mlflow_have_the_log_and_the_scores(job):
    data = load("digits")
    names = ("tensorboard", "mlflow")
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
    train(job, load("digits"), track=("wandb",))
    with tracking(job.folder(0).path, ("wandb",)) as tell:
        tell(10**6, {"test elbo": -1.0, "not finite": float("nan")})
    files = sorted((job.folder(0).path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({f.name for f in files}) == 1
    rows = [row for file in files for row in history(file.read_bytes())]
    found = {(row["step"], k): v for row in rows for k, v in row.items() if k[0] != "_"}
    expected = logged(job) | {(10**6, "test elbo"): -1.0}
    assert {k: v for k, v in found.items() if k[1] != "step"} == pytest.approx(expected)


def history(raw):
    """The rows of a .wandb file: 7 bytes, then records of LevelDB's log format, which in blocks of
    32 KiB have checksum, length and type before them."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, whole = 7, b""
    while place + 7 < len(raw):
        size, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
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

    def __init__(self, run):
        self.told = 0
        if self.when == "start":
            raise OSError("no way to the server")

    def log(self, step, values):
        self.told += 1
        if self.when == "log" and self.told == 2:
            raise RuntimeError("the server\nis gone")

    def close(self):
        if self.when == "close":
            raise ValueError("never heard of this run")


@pytest.mark.parametrize("when", ["start", "log", "close"])
def test_a_tracker_that_fails_is_given_up_with_one_line(when, job, monkeypatch, capsys):
    monkeypatch.setattr(Broken, "when", when)
    monkeypatch.setitem(TRACKERS, "wandb", (Broken, ()))
    train(job, load("digits"), track=("wandb",))
    assert job.folder(0).failure() is None
    assert max(step for step, _ in logged(job)) == 21
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("triptych: wandb is given up for")


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
