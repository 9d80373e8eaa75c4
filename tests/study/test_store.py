import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triptych.data import load
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation, Judgement
from triptych.protocols import Score
from triptych.study.manifest import git_commit, manifest
from triptych.study.recipes import override, recipes_for
from triptych.study.run import trained_model
from triptych.study.store import RunFolder
from triptych.train import checkpoint
from triptych.train.checkpoint import Checkpoint
from triptych.train.files import read_json

RECIPE = recipes_for("digits")["vae-mixture"]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "vae-mixture" / "seed-3")


def test_scores_and_arrays_come_back_as_they_were_written(folder):
    scores = [
        Score("elbo", -80.123456789, "nats", 0.01, {"n": 5, "dataset": "digits"}),
        Score("fid", 4.0, "", None, {"floor": 1.5}),
    ]
    arrays = {"latent": {"prior": np.arange(6.0).reshape(3, 2)}}
    folder.path.mkdir(parents=True)
    assert not folder.finished
    folder.write_judgement(Judgement(scores, arrays), Evaluation())
    assert folder.finished
    assert folder.scores() == scores
    with np.load(folder.path / "latent.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["prior"], arrays["latent"]["prior"])


def test_a_run_that_lost_an_array_is_judged_anew(folder):
    folder.path.mkdir(parents=True)
    folder.write_judgement(Judgement([], {"latent": {"a": np.zeros(1)}}), Evaluation())
    assert folder.settled
    assert not folder.lost
    (folder.path / "latent.npz").unlink()
    assert not folder.settled
    assert folder.lost == ["latent.npz"]


def test_judging_anew_leaves_no_scores_beside_arrays_of_another(folder, monkeypatch):
    """However far it comes; and a disk that is full loses nothing."""
    folder.path.mkdir(parents=True)
    one = {"a": np.zeros(1)}
    folder.write_judgement(Judgement([], {"latent": one, "tradeoff": one}), Evaluation())
    folder.write_judgement(Judgement([], {"latent": one}), Evaluation())
    assert sorted(path.name for path in folder.path.iterdir()) == ["latent.npz", "scores.json"]

    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    packed, more = np.savez_compressed, {"latent": {"a": np.ones(1)}, "units": one}

    def full_at_last(raw, **arrays):
        if not arrays["a"].any():
            raise OSError(28, "No space left on device")
        packed(raw, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full_at_last)
        with pytest.raises(OSError, match="No space"):
            folder.write_judgement(Judgement([], more), Evaluation())
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("triptych.study.store.write_scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        folder.write_judgement(Judgement([], more), Evaluation())
    assert not folder.finished
    assert sorted(path.name for path in folder.path.iterdir()) == ["latent.npz", "units.npz"]


@pytest.mark.parametrize("name", ["config", "scores"])
def test_what_a_later_version_has_written_is_not_read_as_this_ones(name, folder, digits):
    folder.claim(RECIPE, digits, 3)
    folder.write_judgement(Judgement([], {}), Evaluation())
    path = folder.path / f"{name}.json"
    plain = json.loads(path.read_text()) | {"schema": 99}
    del plain["sha256"]
    path.write_text(json.dumps(plain))
    with pytest.raises(UserError, match=f"{name}.json is of schema 99, and this version reads 1"):
        getattr(folder, name)()


def test_a_study_is_no_run(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UserError, match="is a study; name one of its runs, STUDY/MODEL/seed-S"):
        RunFolder(tmp_path).config()


def test_scores_are_written_last(folder, monkeypatch):
    """A crash while the arrays are written must not leave a run that looks finished."""
    folder.path.mkdir(parents=True)

    def full(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError):
        folder.write_judgement(Judgement([], {"latent": {"a": np.zeros(1)}}), Evaluation())
    assert not folder.finished


def test_a_run_rebuilds_its_recipe_from_its_config(folder, digits):
    recipe = override(RECIPE, components=7, hidden=(16, 8), epochs=2.5)
    folder.claim(recipe, digits, 3)
    assert folder.config() == (recipe, "digits", 3)


def test_a_folder_of_other_settings_is_refused(folder, digits):
    folder.claim(RECIPE, digits, 3)
    folder.claim(RECIPE, digits, 3)
    for recipe, dataset, seed, said in (
        (override(RECIPE, lr=0.5), "digits", 3, r"lr = 0\.\d+, and 0\.5 is asked for"),
        (RECIPE, "mnist", 3, "dataset = 'digits', and 'mnist' is asked for"),
        (RECIPE, "digits", 4, "seed = 3, and 4 is asked for"),
    ):
        with pytest.raises(UserError, match=f"seed-3 was trained with {said}"):
            folder.claim(recipe, replace(digits, name=dataset), seed)
    folder.claim(override(RECIPE, title="Called otherwise"), digits, 3)


def test_other_images_of_the_same_name_are_refused(folder, digits):
    """A study's runs would be of one set or of the other, and its tables of both."""
    folder.claim(RECIPE, digits, 3)
    others = replace(digits, sha256="f" * 64)
    for ask in (lambda: folder.claim(RECIPE, others, 3), lambda: trained_model(folder, others)):
        with pytest.raises(UserError, match=rf"other images called digits .* not {'f' * 64}\)"):
            ask()
    plain = json.loads((folder.path / "config.json").read_text())
    del plain["data_sha256"], plain["sha256"]  # as an earlier version wrote it
    (folder.path / "config.json").write_text(json.dumps(plain))
    folder.claim(RECIPE, others, 3)


def test_resuming_needs_a_checkpoint_and_starting_needs_none(folder):
    folder.check_resume(resume=False)
    with pytest.raises(UserError, match="leave out --resume"):
        folder.check_resume(resume=True)
    checkpoint.save(folder.path, Checkpoint({}, {}, {}, {}, {}))
    folder.check_resume(resume=True)
    with pytest.raises(UserError, match="go on with --resume"):
        folder.check_resume(resume=False)


def test_weights_of_unknown_settings_are_no_ones(folder):
    """Training would go on with them as those of whatever it was asked for."""
    data = load("digits")
    folder.claim(RECIPE, data, seed=3)
    checkpoint.save(folder.path, Checkpoint({}, {}, {}, {}, {"step": 0}))
    folder.claim(RECIPE, data, seed=3)
    (folder.path / "config.json").unlink()
    with pytest.raises(UserError, match=r"seed-3 has a checkpoint, and no config\.json"):
        folder.claim(RECIPE, data, seed=3)
    assert not (folder.path / "config.json").exists()


def test_how_the_study_of_a_run_judges_is_found_by_any_path(tmp_path, monkeypatch):
    run = tmp_path / "study" / "vae" / "seed-0"
    run.mkdir(parents=True)
    (tmp_path / "link").symlink_to(run)
    how = {"evaluation": {"importance_samples": 7}}
    (tmp_path / "study" / "study.json").write_text(json.dumps(how))
    monkeypatch.chdir(run)
    for path in (run, Path(), Path("..") / "seed-0", tmp_path / "link"):
        assert RunFolder(path).study_judges() == Evaluation(importance_samples=7)
    assert RunFolder(tmp_path / "study").study_judges() is None


def test_failures_keep_their_reason(folder):
    assert folder.failure() is None
    folder.write_failure("log_pz was not finite at step 7")
    assert folder.failure() == "log_pz was not finite at step 7"
    assert not folder.finished


@pytest.mark.parametrize("text", ["{", "[1]", '{"recipe": {"name": "x"}}', '{"recipe": 1}', "{}"])
def test_configs_that_are_not_are_one_sentence(folder, text):
    folder.path.mkdir(parents=True)
    (folder.path / "config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        folder.config()
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_a_commit_is_that_of_our_own_tree(tmp_path, monkeypatch):
    """Not of a project in whose folders a copy of the package is installed."""
    installed = tmp_path / ".venv/triptych/manifest.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    (tmp_path / ".gitignore").write_text(".venv\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr("triptych.study.manifest.__file__", str(installed))
    assert git_commit() is None
    subprocess.run(["git", "-C", str(tmp_path), "add", "-f", str(installed)], check=True)
    assert git_commit() is not None


def test_a_manifest_says_what_ran_where():
    import torch

    found = manifest("abc", torch.device("cpu"), {"train": 1.26, "evaluate": 2.0})
    assert found["data_sha256"] == "abc"
    assert found["seconds"] == {"train": 1.3, "evaluate": 2.0}
    assert found["libraries"]["torch"] == torch.__version__  # "+cu130" and the like with it
    assert found["peak_memory_bytes"] > 1e6
    json.dumps(found)
