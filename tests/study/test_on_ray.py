"""Studies on a Ray cluster of this machine, and the parts of it that need no cluster."""

import errno
import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from triptych.data import load
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study import on_ray
from triptych.study.execute import execute
from triptych.study.grid import Plan, Study
from triptych.study.local import HELD, Place, note_failure
from triptych.study.lock import HeldError, locked
from triptych.study.on_ray import Cluster, cluster_named, files_of, put_back, work
from triptych.study.recipes import override, recipes_for
from triptych.study.run import Job, autoencoder_job, train
from triptych.train import checkpoint
from triptych.train.fit import Progress
from triptych.train.signals import StopRequested

PLACE = Place("digits", None, None, torch.device("cpu"))
QUICK = Evaluation(importance_samples=3, elbo_samples=2, images=30)


def study(names="ab", seeds=(0, 1), epochs=0.3):
    base = recipes_for("digits")["vae-gaussian"]
    recipes = [override(base, name=n, hidden=[8], epochs=epochs) for n in names]
    return Study("tiny", "digits", tuple(Plan(r, seeds) for r in recipes), QUICK)


def scores(outcome):
    return [(s["model"], s["metric"], s["values"]) for s in outcome.results["scores"]]


class Deaf:
    """A board that nobody reads."""

    class tell:  # noqa: N801
        @staticmethod
        def remote(i, said):
            pass


@pytest.mark.skipif("TRIPTYCH_RAY" not in os.environ, reason="starts a Ray cluster: TRIPTYCH_RAY=1")
def test_a_study_on_ray_is_the_same_study_and_a_killed_worker_costs_nothing(tmp_path, monkeypatch):
    """One run is long enough to be killed; Ray begins it again, and its checkpoint goes on."""
    # Beartype's; Ray reads the signatures of all of a class's own methods, and this one has none.
    monkeypatch.delattr(on_ray.Board, "__sizeof__", raising=False)
    asked = study(epochs=12.0)
    serial = execute(asked, tmp_path / "serial", PLACE, lambda job, said: None, 1)
    victim, killed, said = tmp_path / "ray" / "a" / "seed-1", [], []

    def display(job, word):
        said.append(word)
        if (job.recipe.name, job.seeds) == ("a", (1,)) and isinstance(word, Progress):
            owner = (victim / "lock").read_text()
            if owner and not killed and checkpoint.exists(victim):
                killed.append(json.loads(owner)["pid"])
                os.kill(killed[0], signal.SIGKILL)

    cluster = Cluster(cores=3)
    found = execute(asked, tmp_path / "ray", PLACE, display, cluster=cluster)
    assert killed
    assert found.results["failures"] == []
    assert scores(found) == scores(serial)
    assert said.count("done") == 4
    assert not (tmp_path / "ray" / on_ray.TOKEN).exists()


@pytest.mark.skipif("TRIPTYCH_RAY" not in os.environ, reason="starts a Ray cluster: TRIPTYCH_RAY=1")
def test_a_lost_board_costs_no_run(tmp_path, monkeypatch):
    """Its machine may go, or the kernel end it where memory is short."""
    monkeypatch.delattr(on_ray.Board, "__sizeof__", raising=False)
    killed, take = tmp_path / "killed", on_ray.Board.take

    def take_or_die(self):
        if self.rows and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self)

    monkeypatch.setattr(on_ray.Board, "take", take_or_die)
    cluster = Cluster(cores=1)
    found = execute(study("a"), tmp_path / "s", PLACE, lambda job, said: None, cluster=cluster)
    assert killed.exists()
    assert found.results["failures"] == []


def test_what_a_worker_without_the_folder_made_is_fetched_back(tmp_path):
    job = Job(study().plans[0].recipe, (0,), tmp_path / "there")
    data = load("digits")
    word, files = work(job, PLACE, QUICK, False, data, {}, "another token", Deaf, 0)
    assert word == "done"
    assert not job.study.exists()
    here = replace(job, study=tmp_path / "here")
    put_back(here, files)
    seen = replace(job, study=tmp_path / "seen")
    with on_ray.token_in(seen.study) as token:
        assert work(seen, PLACE, QUICK, False, data, {}, token, Deaf, 0) == ("done", {})
    assert here.folder(0).scores() == seen.folder(0).scores()
    assert files_of(here).keys() == files_of(seen).keys() == files.keys()


def test_a_worker_without_the_folder_goes_on_from_what_the_study_has(tmp_path, monkeypatch):
    job = Job(study(epochs=4.0).plans[0].recipe, (0,), tmp_path)
    data, told = load("digits"), []

    def stop(progress):
        told.append(progress.step)
        if len(told) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(StopRequested):
        train(job, data, progress=stop)
    begun = checkpoint.load(job.folder(0).path).loop["step"]
    given, steps = files_of(job), []

    class Board:
        class tell:  # noqa: N801
            @staticmethod
            def remote(i, said):
                steps.append(getattr(said, "step", 0))

    word, files = work(job, PLACE, QUICK, False, data, given, "another token", Board, 0)
    assert word == "done"
    assert steps[0] > begun > 0
    assert any(name.endswith("scores.json") for name in files)
    assert "a/seed-0/lock" not in files


def test_a_run_that_another_process_has_is_left_to_it(tmp_path):
    job = Job(study().plans[0].recipe, (0,), tmp_path)
    with on_ray.token_in(tmp_path) as token, locked(job.folder(0).path):
        word, _ = work(job, PLACE, QUICK, False, load("digits"), {}, token, Deaf, 0)
    assert word.startswith(HELD)


def test_a_run_is_put_back_in_an_order_in_which_it_can_break_off(tmp_path, monkeypatch):
    """What says of what a checkpoint is before it, the earlier checkpoint before the later."""
    job = Job(study().plans[0].recipe, (0,), tmp_path)
    names = "checkpoint/a", "checkpoint.old/a", "scores.json", "arrays.npz", "config.json"
    run, written = f"{job.recipe.name}/seed-0", []
    monkeypatch.setattr(on_ray, "write_bytes", lambda path, raw: written.append(path.name))
    monkeypatch.setattr(checkpoint, "put", lambda path, files: written.append(path.name))
    put_back(job, {f"{run}/{name}": b"" for name in names})
    last = ["checkpoint.old", "checkpoint", "scores.json"]
    assert written == ["config.json", "arrays.npz", *last]


def test_a_run_goes_on_wherever_its_fetching_broke_off(tmp_path, monkeypatch):
    """After a full disk or a kill, with nothing there before and over an earlier checkpoint."""
    made = Job(study(epochs=0.1).plans[0].recipe, (0,), tmp_path / "made")
    train(made, load("digits"))
    files, real = files_of(made), on_ray.write_bytes
    for before in (False, True):
        for room in range(len(files)):
            there = replace(made, study=tmp_path / f"{before}-{room}")
            if before:
                put_back(there, files)
            left = iter(range(room))

            def write(path, raw, left=left, write=real):
                if next(left, None) is None:
                    raise OSError(errno.ENOSPC, "No space left on device")
                write(path, raw)

            with monkeypatch.context() as patch:
                patch.setattr(on_ray, "write_bytes", write)
                patch.setattr(checkpoint, "write_flushed", write)
                with pytest.raises(OSError, match="No space"):
                    put_back(there, files)
            train(there, load("digits"))
            assert not there.folder(0).unfinished_at()


def test_what_another_process_began_meanwhile_is_not_written_over(tmp_path):
    job = Job(study().plans[0].recipe, (0,), tmp_path)
    with locked(job.folder(0).path), pytest.raises(HeldError):
        put_back(job, {"a/seed-0/config.json": b"old"})
    assert not (job.folder(0).path / "config.json").exists()
    (job.folder(0).path / "scores.json").write_text("{}")
    put_back(job, {"a/seed-0/config.json": b"old"}, wait=True)
    assert not (job.folder(0).path / "config.json").exists(), "the other has finished it"


def test_a_try_that_succeeded_takes_the_note_of_the_one_before(tmp_path):
    job = Job(study().plans[0].recipe, (0,), tmp_path)
    note_failure(job, "its process was killed")
    put_back(job, {"a/seed-0/failure.json": b'{"reason": "again"}'})
    assert job.folder(0).failure() == "again"
    put_back(job, {"a/seed-0/scores.json": b"{}"})
    assert job.folder(0).failure() is None


def test_a_job_has_the_autoencoders_of_its_own_seeds(tmp_path):
    """Those of others are at work, and what it had of them when it began is old when it ends."""
    job = Job(recipes_for("digits")["latent-ddpm"], (0,), tmp_path)
    for part in (job, autoencoder_job(job)):
        for seed in (0, 1):
            part.folder(seed).path.mkdir(parents=True)
            (part.folder(seed).path / "config.json").write_text("{}")
    here, encoder = ((p.folder(0).path / "config.json") for p in (job, autoencoder_job(job)))
    assert set(files_of(job)) == {p.relative_to(tmp_path).as_posix() for p in (here, encoder)}


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    """Before anything is written."""
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'triptych\[ray\]'"):
        cluster_named("ray", 0, None)


def test_clusters_by_name(monkeypatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: name)
    assert cluster_named(None, 2, None) is None
    assert cluster_named("ray", 2, 0.5) == Cluster(None, 2, 0.5)
    assert cluster_named("ray://head:10001", 0, 1.0) == Cluster("ray://head:10001", 0, 1.0)
    for on, gpus, match in (("dask", 1.0, "dask"), ("ray", 0.0, "--gpus-per-run 0")):
        with pytest.raises(UserError, match=match):
            cluster_named(on, 0, gpus)
