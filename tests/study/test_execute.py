"""A study is run once: what is there stays, what is missing is made, what failed is told."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.errors import UserError
from triptych.evaluate.classifier import FeatureNet, Features
from triptych.evaluate.evaluation import Drawing, Evaluation
from triptych.likelihoods import Gaussian
from triptych.study import execute as execute_module
from triptych.study import local
from triptych.study import run as run_module
from triptych.study.execute import device_named, execute, jobs_of
from triptych.study.grid import Plan, Study
from triptych.study.local import Place
from triptych.study.recipes import override, recipes_for
from triptych.study.run import Job, evaluate, new_model, sampling_model, train, trained_model
from triptych.study.store import RunFolder
from triptych.train import checkpoint
from triptych.train.signals import StopRequested
from triptych.vae import VAE

PLACE = Place("digits", None, None, torch.device("cpu"))
QUICK = Evaluation(importance_samples=3, elbo_samples=2, images=30)


def study(lr=0.01, seeds=(0, 1), names=("a", "b")):
    base = recipes_for("digits")["vae-gaussian"]
    recipes = [override(base, name=n, hidden=[8], epochs=0.3, lr=lr) for n in names]
    return Study("tiny", "digits", tuple(Plan(r, seeds) for r in recipes), QUICK)


def go(asked, folder, workers=1):
    return execute(asked, folder, PLACE, lambda job, said: None, workers).results


@pytest.fixture
def fits(monkeypatch):
    """The seeds of every training that is begun, and the data that it is given."""
    begun, fit = [], run_module.fit

    def recording(models, seeds, folders, data, *rest, **named):
        begun.append((folders[0].parent.name, *seeds, data))
        return fit(models, seeds, folders, data, *rest, **named)

    monkeypatch.setattr(run_module, "fit", recording)
    return begun


def test_a_study_trains_every_recipe_with_every_seed(tmp_path, fits):
    found = go(study(), tmp_path)
    assert sorted(f[:2] for f in fits) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    written = json.loads((tmp_path / "results.json").read_text())
    assert json.loads(json.dumps(found)) == written
    elbo = next(r for r in found["scores"] if r["metric"] == "elbo" and r["model"] == "a")
    assert elbo["seeds"] == [0, 1]
    assert elbo["values"][0] != elbo["values"][1]
    assert elbo["protocol"]["split"] == "test"
    assert found["failures"] == []
    assert {d["metric"] for d in found["differences"]} >= {"elbo", "iwae-3"}
    written = {p.name for p in (tmp_path / "a" / "seed-0").iterdir()}
    assert written >= {"config.json", "manifest.json", "metrics.jsonl", "checkpoint", "scores.json"}


def test_runs_are_not_judged_on_two_feature_networks(tmp_path, monkeypatch):
    def on(name, features, seeds=(0,), rejudge=False, weights=""):
        net = Features(FeatureNet((1, 8, 8)).eval(), name, weights or name, None)
        monkeypatch.setattr(execute_module, "features_for", lambda *a: net)
        monkeypatch.setattr(run_module, "features_for", lambda *a: net)
        grey = override(recipes_for("digits")["vae-grey"], hidden=[8], epochs=0.3)
        asked = Study("tiny", "digits", (Plan(grey, seeds),), QUICK)
        place = replace(PLACE, features=features)
        return execute(asked, tmp_path, place, lambda job, said: None, 1, rejudge=rejudge).results

    first = on("ours", None)
    with pytest.raises(UserError, match=r"seed-0 was judged on the features 'ours', not 'course'"):
        on("course", Path("course.pth"))
    with pytest.raises(UserError, match="add --rejudge"):
        on("course", None, seeds=(0, 1))
    with pytest.raises(UserError, match="on other weights of 'ours', not these; add --rejudge"):
        on("ours", None, seeds=(0, 1), weights="others")
    assert on("course", None) == first  # nothing is left to judge
    found = on("course", Path("course.pth"), rejudge=True)["scores"]
    assert {s["protocol"]["features"] for s in found if s["metric"] == "fid"} == {"course"}
    for place in tmp_path.glob("*/seed-0/checkpoint*"):
        shutil.rmtree(place)
    with pytest.raises(UserError, match="has no whole checkpoint left"):
        on("ours", None, rejudge=True)
    assert on("course", None)["scores"] == found  # nothing is lost


def test_a_finished_run_is_never_trained_or_judged_again(tmp_path, fits):
    first = go(study(), tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/seed-*/**/*") if p.is_file()}
    assert len(files) > 20
    fits.clear()
    assert go(study(), tmp_path) == first
    assert fits == []
    assert files == {p: p.stat().st_mtime_ns for p in files}


def test_an_interrupted_study_goes_on_where_it_was(tmp_path, fits, monkeypatch):
    whole = go(study(), tmp_path / "whole")
    fits.clear()
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "fit", stopping_at("b", 0, run_module.fit))
        with pytest.raises(StopRequested):
            go(study(), tmp_path / "parts")
    done = [f[:2] for f in fits]
    assert ("b", 0) not in done
    fits.clear()
    assert go(study(), tmp_path / "parts") == whole
    assert not {f[:2] for f in fits} & set(done)


def stopping_at(model, seed, fit):
    def stop(models, seeds, folders, *rest, **named):
        if (folders[0].parent.name, seeds[0]) == (model, seed):
            raise StopRequested(0, 10)
        return fit(models, seeds, folders, *rest, **named)

    return stop


def test_on_a_gpu_the_seeds_of_a_model_are_one_job_unless_it_has_convolutions(tmp_path):
    digits, seeds = recipes_for("digits"), (0, 1, 2)
    residual = override(digits["vae-gaussian"], name="residual", network="residual")
    flat = [digits[n] for n in ("vae-spline", "pixelflow-mlp", "latent-ddpm")]
    deep = [residual, *(digits[n] for n in ("pixelflow", "ddpm", "vdm"))]
    asked = Study("tiny", "digits", tuple(Plan(r, seeds) for r in (*flat, *deep)), QUICK)
    for side_by_side in (True, False):
        jobs = jobs_of(asked, tmp_path, side_by_side)
        together = {job.recipe.name for job in jobs if job.seeds == seeds}
        assert together == ({r.name for r in flat} if side_by_side else set())
        assert sum(len(job.seeds) for job in jobs) == 3 * len(asked.plans)


def test_what_takes_longest_begins_first(tmp_path):
    """So that no core idles at the end."""
    mnist = recipes_for("mnist")
    names = ("vae-gaussian", "vae-grey", "latent-ddpm", "pixelflow", "pixelflow-spline", "ddpm")
    plans = tuple(Plan(mnist[name], (0, 1)) for name in names)
    order = [
        (job.recipe.name, *job.seeds)
        for job in jobs_of(Study("tiny", "mnist", plans, QUICK), tmp_path, side_by_side=False)
    ]
    slow = ("ddpm", "pixelflow-spline", "pixelflow", "latent-ddpm", "vae-gaussian", "vae-grey")
    assert order == [(name, seed) for name in slow for seed in (0, 1)]


def test_runs_of_other_settings_are_refused_and_stay(tmp_path, fits):
    """Whether they are judged or not: the report would tell of settings that they do not have."""
    found = go(study(), tmp_path)
    asked = (tmp_path / "study.json").read_bytes()
    fits.clear()
    for other, said in (
        (study(lr=0.02), r"a/seed-0 was trained with lr = 0\.01, and 0\.02 is asked for"),
        (
            replace(study(), evaluation=replace(QUICK, elbo_samples=3)),
            r"a/seed-0 was judged with elbo_samples = 2, and 3 is asked for; add --rejudge",
        ),
    ):
        with pytest.raises(UserError, match=said):
            go(other, tmp_path)
    (tmp_path / "study.json").unlink()
    with pytest.raises(UserError, match="was trained with lr"):
        go(study(lr=0.02), tmp_path)
    (tmp_path / "study.json").write_bytes(asked)
    (tmp_path / "a" / "seed-0" / "scores.json").unlink()  # trained, and to be judged anew
    with pytest.raises(UserError, match=r"was trained with lr = 0\.01, and 0\.02 is asked for"):
        go(study(lr=0.02), tmp_path)
    assert fits == []
    assert (tmp_path / "study.json").read_bytes() == asked
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(found))
    assert not list(tmp_path.glob("*/seed-*/failure.json"))
    assert go(study(), tmp_path) == found


def test_runs_are_judged_anew_where_their_scores_would_be_others(tmp_path):
    digits = recipes_for("digits")
    vae = override(digits["vae-gaussian"], hidden=[8], epochs=0.3)
    flow = override(digits["pixelflow-mlp"], width=8, steps=2, epochs=0.3)
    plans = (Plan(vae, (0,)), Plan(flow, (0,)))

    def judged(rejudge=False, **settings):
        asked = Study("tiny", "digits", plans, replace(QUICK, **settings))
        execute(asked, tmp_path, PLACE, lambda job, said: None, 1, rejudge=rejudge)
        files = [tmp_path / p.recipe.name / "seed-0" / "scores.json" for p in plans]
        return [(f.stat().st_mtime_ns, json.loads(f.read_text())["scores"]) for f in files]

    def trained():
        return {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/seed-0/checkpoint/*")}

    first, weights = judged(), trained()
    assert len(weights) >= 8
    assert judged(steps=7, sampler="heun") == first  # neither has a chain
    with pytest.raises(UserError, match=r"bound_draws = 4, and 2 is asked for; add --rejudge"):
        judged(bound_draws=2)
    again = judged(bound_draws=2, rejudge=True)
    assert again[0] == first[0]
    assert again[1] != first[1]
    assert {s["protocol"]["samples"] for s in again[1][1] if s["metric"] == "bpd"} == {2}
    assert judged(bound_draws=2) == again
    assert trained() == weights
    asked = (tmp_path / "study.json").read_bytes()
    places = list((tmp_path / "vae-gaussian" / "seed-0").glob("checkpoint*"))
    for spoil in (lambda p: (p / "best.safetensors").write_bytes(b"torn"), shutil.rmtree):
        for place in places:
            spoil(place)
        with pytest.raises(UserError, match=r"vae-gaussian/seed-0 has no whole checkpoint left"):
            judged(images=20, bound_draws=3, rejudge=True)
        assert judged(bound_draws=2) == again  # nothing is lost
    assert (tmp_path / "study.json").read_bytes() == asked


def test_features_of_a_study_without_part_b_are_refused(tmp_path, fits):
    place = replace(PLACE, features=Path("nosuch.pth"))
    with pytest.raises(UserError, match=r"--features nosuch\.pth has no effect on tiny"):
        execute(study(), tmp_path, place, lambda job, said: None, 1)
    assert fits == []
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_refused_for_its_features_has_written_nothing(tmp_path):
    asked = study(seeds=(0,), names=("a",))
    asked = replace(
        asked, plans=tuple(replace(p, recipe=replace(p.recipe, part="B")) for p in asked.plans)
    )
    with pytest.raises(UserError):
        execute(asked, tmp_path, replace(PLACE, features=tmp_path / "none.pth"), lambda *_: None)
    assert not (tmp_path / "study.json").exists()


def test_a_study_of_a_later_version_is_left_alone(tmp_path, fits):
    go(study(), tmp_path)
    path = tmp_path / "study.json"
    later = json.loads(path.read_text()) | {"schema": 2}
    later.pop("sha256")
    path.write_text(json.dumps(later))
    with pytest.raises(UserError, match=r"study\.json is of schema 2, and this version reads 1"):
        go(study(), tmp_path)
    assert json.loads(path.read_text()) == later


def test_study_json_is_of_the_results_beside_it(tmp_path, fits, monkeypatch):
    """Whatever another study of the folder has asked for in the meantime."""
    go(study(names=("a",)), tmp_path)
    other = (tmp_path / "study.json").read_bytes()
    fit = run_module.fit

    def meanwhile(*args, **named):
        (tmp_path / "study.json").write_bytes(other)
        return fit(*args, **named)

    monkeypatch.setattr(run_module, "fit", meanwhile)
    go(study(names=("a", "b")), tmp_path)
    asked = json.loads((tmp_path / "study.json").read_text())
    assert [r["name"] for r in asked["recipes"]] == ["a", "b"]


def test_runs_that_another_study_has_trained_otherwise_meanwhile_are_refused(tmp_path, monkeypatch):
    """Which of them trains a run that both have is chance."""
    fit, other = run_module.fit, study(lr=0.02, names=("b",))

    def meanwhile(*args, **named):
        monkeypatch.setattr(run_module, "fit", fit)
        go(other, tmp_path)
        return fit(*args, **named)

    monkeypatch.setattr(run_module, "fit", meanwhile)
    with pytest.raises(UserError, match=r"b/seed-0 was trained with lr = 0\.02, and 0\.01"):
        go(study(names=("a", "b")), tmp_path)


def test_a_finished_run_must_say_what_it_is_of(tmp_path):
    go(study(), tmp_path)
    (tmp_path / "a" / "seed-0" / "config.json").unlink()
    with pytest.raises(UserError, match=r"a/seed-0/config\.json does not exist"):
        go(study(), tmp_path)


def test_nothing_of_an_earlier_judging_stays_beside_a_later_one(tmp_path):
    """Its arrays would be drawn as the later one's."""
    recipe = override(recipes_for("digits")["ddpm"], widths=[8], epochs=0.1, timesteps=20)
    how = replace(QUICK, steps=3, tradeoff_images=20)
    path = tmp_path / "ddpm" / "seed-0"
    for asked in (how, replace(how, tradeoff_images=0)):
        plans = Study("tiny", "digits", (Plan(recipe, (0,)),), asked)
        execute(plans, tmp_path, PLACE, lambda job, said: None, 1, rejudge=True)
        assert (path / "tradeoff.npz").exists() == (asked is how)
        assert (path / "samples.npz").exists()


def test_while_runs_are_judged_anew_there_are_no_results(tmp_path, monkeypatch):
    """A report would set those of before beside the runs of now."""
    go(study(), tmp_path)

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute_module, "run_here", stopped)
    other = replace(study(), evaluation=replace(QUICK, elbo_samples=3))
    with pytest.raises(KeyboardInterrupt):
        execute(other, tmp_path, PLACE, lambda job, said: None, 1, rejudge=True)
    assert not (tmp_path / "results.json").exists()


def test_another_study_in_the_same_folder_is_refused(tmp_path, fits):
    go(study(), tmp_path)
    fits.clear()
    with pytest.raises(UserError, match="a study with name = 'tiny', not 'other'; choose another"):
        go(replace(study(lr=0.02), name="other"), tmp_path)
    assert fits == []


def test_other_images_in_the_same_folder_are_refused(tmp_path, fits, digits):
    """A file of one's own may change under its name."""
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = {n: getattr(digits, n).numpy() for n in parts}
    np.savez(tmp_path / "own.npz", **arrays, levels=17)
    place = replace(PLACE, dataset="own", root=tmp_path)
    asked, folder = replace(study(seeds=(0,)), dataset="own"), tmp_path / "runs"
    found = execute(asked, folder, place, lambda job, said: None, 1).results
    assert {row["protocol"]["dataset"] for row in found["scores"]} == {"own"}
    np.savez(tmp_path / "own.npz", **arrays, levels=18)
    with pytest.raises(UserError, match="trained on other images called own"):
        execute(asked, folder, place, lambda job, said: None, 1)


def test_recipes_come_and_go_and_are_called_otherwise(tmp_path, fits):
    two = go(study(), tmp_path)
    fits.clear()
    one = go(study(names=("a",)), tmp_path)
    assert {row["model"] for row in one["scores"]} == {"a"}
    three = go(study(names=("a", "b", "c")), tmp_path)
    assert sorted(f[:2] for f in fits) == [("c", 0), ("c", 1)]
    assert [r for r in three["scores"] if r["model"] != "c"] == two["scores"]
    fits.clear()
    first, second = study().plans
    called = Plan(override(first.recipe, title="Called otherwise"), first.seeds)
    assert go(replace(study(), plans=(called, second)), tmp_path) == two
    assert json.loads((tmp_path / "study.json").read_text())["recipes"][0]["title"] == (
        "Called otherwise"
    )
    assert fits == []


def test_runs_without_scores_are_judged_as_is_asked_without_being_trained(tmp_path):
    go(study(), tmp_path)
    logs = {path: path.read_text() for path in tmp_path.glob("*/seed-*/metrics.jsonl")}
    for path in tmp_path.glob("*/seed-*/scores.json"):
        path.unlink()
    found = go(replace(study(), evaluation=replace(QUICK, importance_samples=4)), tmp_path)
    assert logs == {path: path.read_text() for path in logs}
    assert {row["metric"] for row in found["scores"]} >= {"iwae-4"}


def test_a_study_from_before_there_was_a_setting_goes_on(tmp_path, fits):
    """A setting that a study.json lacks has its default."""
    found = go(study(), tmp_path)
    fits.clear()
    lacking = {"config.json": ("recipe", "train", "early"), "scores.json": ("evaluation", "rho")}
    for file, (*rooms, setting) in lacking.items():
        path = tmp_path / "a" / "seed-0" / file
        plain = json.loads(path.read_text())
        del plain["sha256"]
        room = plain
        for name in rooms:
            room = room[name]
        del room[setting]
        path.write_text(json.dumps(plain))
    assert go(study(), tmp_path) == found
    assert fits == []


def test_a_study_may_grow_by_seeds_and_shrink_again(tmp_path, fits):
    """What is trained stays as it is; results.json covers the seeds that were asked for last."""
    two = go(study(), tmp_path)
    fits.clear()
    three = go(study(seeds=(0, 1, 2)), tmp_path)
    assert sorted(f[:2] for f in fits) == [("a", 2), ("b", 2)]
    assert {row["n_seeds"] for row in three["scores"]} == {3}
    assert three["scores"][0]["values"][:2] == two["scores"][0]["values"]
    fits.clear()
    assert go(study(), tmp_path) == two
    assert fits == []


def test_a_seed_that_failed_is_reported_and_not_skipped(tmp_path, fits):
    RunFolder(tmp_path / "a" / "seed-1").write_failure("log_px was not finite at step 3")
    found = go(study(), tmp_path)
    assert found["failures"] == [
        {"model": "a", "seed": 1, "reason": "log_px was not finite at step 3"}
    ]
    elbo = next(r for r in found["scores"] if r["metric"] == "elbo" and r["model"] == "a")
    assert elbo["seeds"] == [0]
    assert ("a", 1) not in [f[:2] for f in fits]


def test_training_and_selection_never_see_the_test_images(tmp_path, fits, digits):
    go(study(seeds=(0,), names=("a",)), tmp_path)
    ((*_, data),) = fits
    assert torch.equal(data.images, digits.train_images)
    assert torch.equal(data.validation, digits.validation_images)
    test = {tuple(row) for row in digits.test_images.flatten(1).tolist()}
    seen = torch.cat([data.images, data.validation]).flatten(1).tolist()
    # A few digits are written alike; most of a test set is not.
    assert sum(tuple(row) in test for row in seen) < 5


def test_processes_do_the_same_and_a_job_that_breaks_stops_no_other(tmp_path):
    whole = go(study(seeds=(0,)), tmp_path / "here")
    (tmp_path / "there" / "b" / "seed-0").mkdir(parents=True)
    (tmp_path / "there" / "b" / "seed-0" / "config.json").write_text("{}")
    found = go(study(seeds=(0,)), tmp_path / "there", workers=2)
    assert found["scores"] == [r for r in whole["scores"] if r["model"] == "a"]
    ((model, seed, reason),) = (f.values() for f in found["failures"])
    assert (model, seed) == ("b", 0)
    assert "config.json is not a run's config" in reason
    assert not (tmp_path / "there" / "b" / "traceback.txt").exists()  # the fault is known


def test_a_failure_that_nobody_knows_leaves_its_traceback(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by nobody")

    monkeypatch.setattr(local, "run_job", broken)
    found = go(study(seeds=(0,), names=("a",)), tmp_path)
    assert [f["reason"] for f in found["failures"]] == ["ZeroDivisionError: by nobody"]
    assert "in broken" in (tmp_path / "a" / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("device", "workers", "processes"),
    [("cpu", 1, 0), ("cpu", 3, 3), ("cuda", 0, 0), ("cuda", 1, 0), ("cuda", 3, 3)],
)
def test_a_gpu_is_shared_by_as_many_processes_as_are_asked_for(
    device, workers, processes, tmp_path, monkeypatch
):
    begun = []
    monkeypatch.setattr(execute_module, "run_here", lambda *rest: begun.append(0) or [])
    monkeypatch.setattr(execute_module, "run_processes", lambda *rest: begun.append(rest[4]) or [])
    place = Place("digits", None, None, torch.device(device))
    execute(study(), tmp_path, place, lambda job, said: None, workers)
    assert set(begun) == {processes}


@pytest.mark.parametrize(
    ("base", "setting", "said"),
    [
        ("ddpm", {"widths": [8] * 5}, "a: this ddpm does not fit the images"),
        ("vae-vamp", {"pseudo_inputs": 5000}, "a: 5000 pseudo-inputs cannot start from 1293"),
    ],
)
def test_what_the_images_refuse_is_named_and_nothing_is_written(tmp_path, base, setting, said):
    recipe = override(recipes_for("digits")[base], name="a", **setting)
    with pytest.raises(UserError, match=said):
        go(Study("tiny", "digits", (Plan(recipe, (0,)),), QUICK), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_scores_are_those_of_the_averaged_weights_that_were_best_on_validation(tmp_path, digits):
    go(study(seeds=(0,), names=("a",)), tmp_path)
    folder = RunFolder(tmp_path / "a" / "seed-0")
    best = checkpoint.load(folder.path).best
    torch.testing.assert_close(trained_model(folder, digits).state_dict(), best)


def test_a_ddpm_is_guided_by_its_own_early_weights(tmp_path, digits):
    """Net 2 (good - bad) + bad of the two files; VAEs, and weight 1, are not guided."""
    recipe = override(recipes_for("digits")["ddpm"], widths=[8], timesteps=10, epochs=0.5)
    job = Job(recipe, (0,), tmp_path)
    train(job, digits)
    folder = job.folder(0)
    saved = checkpoint.load(folder.path)
    nets = []
    for weights in (saved.best, saved.early):
        model = new_model(recipe, 0, digits)
        model.load_state_dict(weights)
        nets.append(model.net)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 9])
    good, bad = (net(x, t) for net in nets)
    assert (good - bad).abs().max() > 1e-4
    guided = sampling_model(folder, digits, 2.0)
    torch.testing.assert_close(guided.net(x, t), 2 * good - bad)
    torch.testing.assert_close(sampling_model(folder, digits, 1.0).net(x, t), good)
    fid = {}
    for guidance in (1.0, 3.0):
        how = Evaluation(images=40, steps=2, bound_draws=1, guidance=guidance)
        evaluate(folder, digits, how)
        fid[guidance] = next(s for s in folder.scores() if s.metric == "fid")
    assert fid[1.0].value != fid[3.0].value
    assert fid[3.0].protocol["guidance"] == 3.0


def test_a_vdm_and_its_guide_are_asked_at_the_same_noise(tmp_path, digits):
    """The schedule is learned too: that of the early weights ended elsewhere."""
    recipe = override(recipes_for("digits")["vdm"], widths=[8], timesteps=10, epochs=0.5)
    job = Job(recipe, (0,), tmp_path)
    train(job, digits)
    folder = job.folder(0)
    saved = checkpoint.load(folder.path)
    saved.early["moved_0"] = torch.tensor(3.0)
    checkpoint.save(folder.path, saved)
    good, bad = new_model(recipe, 0, digits), new_model(recipe, 0, digits)
    good.load_state_dict(saved.best)
    bad.load_state_dict(saved.early)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 9])
    bad.moved_0.data, bad.moved_1.data = good.moved_0.data, good.moved_1.data
    a, b = (model.chain().net(x, t) for model in (good, bad))
    torch.testing.assert_close(sampling_model(folder, digits, 2.0).net(x, t), 2 * a - b)


def test_a_run_that_is_not_trained_to_its_end_is_not_judged(tmp_path, digits):
    """A study would take its scores for those of a finished run."""
    job = Job(study().plans[0].recipe, (0,), tmp_path)
    train(job, digits)
    folder = job.folder(0)
    saved = checkpoint.load(folder.path)
    saved.loop["step"] -= 1
    checkpoint.save(folder.path, saved)
    with pytest.raises(UserError, match="train it to its end first"):
        evaluate(folder, digits, QUICK)
    assert not folder.finished


def test_guidance_without_early_weights_is_refused_in_a_sentence(tmp_path, digits):
    for name, weights in (("ddpm", {"widths": [8]}), ("vae-gaussian", {"hidden": [8]})):
        recipe = override(recipes_for("digits")[name], epochs=0.1, early=None, **weights)
        job = Job(recipe, (0,), tmp_path)
        train(job, digits)
        if name == "ddpm":
            with pytest.raises(
                UserError, match=r"kept no early weights .* guidance = 1\.5; choose 1"
            ):
                sampling_model(job.folder(0), digits, 1.5)
        else:
            assert isinstance(sampling_model(job.folder(0), digits, 1.5), VAE)


def latent_recipe(**settings):
    small = {"hidden": [8], "latent_dim": 2, "likelihood": "gaussian", "beta": 1e-3}
    base = recipes_for("digits")["latent-ddpm"]
    asked = {"vae": small, "vae_train": {"epochs": 0.5}, "width": 8, "timesteps": 10, "epochs": 0.5}
    return override(base, **(asked | settings))


def test_a_latent_ddpm_stands_on_a_vae_of_its_own_that_is_trained_once(tmp_path, digits, fits):
    job = Job(latent_recipe(), (0, 1), tmp_path)
    train(job, digits)
    assert [f[0] for f in fits] == ["autoencoder", "latent-ddpm"]
    for seed in (0, 1):
        vae = checkpoint.load(tmp_path / "latent-ddpm" / "autoencoder" / f"seed-{seed}").best
        ours = checkpoint.load(job.folder(seed).path).best
        for name, value in vae.items():
            assert torch.equal(ours[f"autoencoder.{name}"], value)
    fits.clear()
    train(job, digits)
    assert [f[0] for f in fits] == ["latent-ddpm"]  # both go on from their end


def test_the_steps_of_both_trainings_are_counted_as_one(tmp_path, digits):
    told = []
    train(Job(latent_recipe(), (0,), tmp_path), digits, progress=told.append)
    assert len({p.steps for p in told}) == 1
    steps = [p.step for p in told]
    assert steps == sorted(steps)
    assert steps[-1] == told[-1].steps


def test_a_latent_ddpm_whose_vae_failed_says_so(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(Gaussian, "log_prob", lambda self, x, z: self.net(z).sum(-1) * math.nan)
    job = Job(latent_recipe(), (0,), tmp_path)
    train(job, digits)
    assert job.folder(0).failure().startswith("its VAE: ")
    assert not checkpoint.exists(job.folder(0).path)


def test_a_latent_ddpm_is_judged_beside_its_vaes_own_prior(tmp_path, digits):
    job = Job(latent_recipe(), (0,), tmp_path)
    train(job, digits)
    evaluate(job.folder(0), digits, Evaluation(images=60, latent=Drawing("heun", steps=3)))
    found = {s.metric: s for s in job.folder(0).scores()}
    for metric in ("fid", "fid-prior", "fid-reconstruction"):
        assert found[metric].protocol["n"] == 60
    assert (found["fid"].protocol["sampler"], found["fid"].protocol["steps"]) == ("heun", 3)
    assert {"energy-distance", "energy-distance-prior"} <= found.keys()
    assert "bpd" not in found
    arrays = np.load(job.folder(0).path / "latent.npz")
    assert arrays["chain"].shape == arrays["density"].shape
    cell = np.diff(arrays["grid_x"])[0] * np.diff(arrays["grid_y"])[0]
    assert arrays["chain"].sum() * cell == pytest.approx(1, abs=0.05)


def test_devices_that_are_not_here_are_refused():
    assert device_named("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda is not available here"):
            device_named("cuda")


def test_other_seeds_have_other_weights_and_the_same_seed_the_same(digits):
    recipe = study().plans[0].recipe
    weights = [
        torch.cat([p.flatten() for p in run_module.new_model(recipe, s, digits).parameters()])
        for s in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_nothing_is_pickled(tmp_path):
    go(study(seeds=(0,), names=("a",)), tmp_path)
    plain = {"SHA256SUMS", "lock"}
    files = [p for p in Path(tmp_path).rglob("*") if p.is_file() and p.name not in plain]
    assert {p.suffix for p in files} <= {".json", ".jsonl", ".safetensors", ".npz"}


def test_the_last_run_of_a_study_is_computed_as_those_before(tmp_path, monkeypatch):
    """Alone in this process it would have all threads: it would round otherwise, and its speed be
    measured under another protocol."""
    counts = []

    def with_processes(jobs, place, how, display, count, wait):
        counts.append(count)
        return []

    monkeypatch.setattr(local, "cpu_count", lambda: 2)
    monkeypatch.setattr(execute_module, "run_here", lambda jobs, *rest: counts.append(1) or [])
    monkeypatch.setattr(execute_module, "run_processes", with_processes)
    asked = study()
    go(asked, tmp_path, workers=0)
    first, *_, last = jobs_of(asked, tmp_path, side_by_side=False)
    for job in jobs_of(asked, tmp_path, side_by_side=False):
        if job != last:
            job.folder(job.seeds[0]).write_failure("not finite")
    assert first != last
    go(asked, tmp_path, workers=0)
    assert set(counts) == {2}
