"""Run a study: claim its folder, run what is missing, gather results.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from triptych.data import Dataset, load
from triptych.errors import UserError
from triptych.evaluate.classifier import Features, features_for
from triptych.evaluate.evaluation import Evaluation
from triptych.study.build import check_images
from triptych.study.configs import convolves
from triptych.study.grid import Study, naming, study_json
from triptych.study.local import Display, Place, default_workers, run_here, run_processes
from triptych.study.lock import locked
from triptych.study.on_ray import Cluster, run_on_ray
from triptych.study.recipes import Recipe
from triptych.study.results import results
from triptych.study.run import Job
from triptych.study.store import RunFolder, of_this_version, pretty
from triptych.train.files import sealed, write_text


@dataclass(frozen=True)
class Outcome:
    """Where a study stands after running."""

    folder: Path
    results: dict[str, Any]

    @property
    def unfinished(self) -> int:
        """How many runs the same command would take up again."""
        failed = self.results["failures"]
        return sum(not RunFolder.of(self.folder, f["model"], f["seed"]).settled for f in failed)


def execute(
    study: Study,
    folder: Path,
    place: Place,
    display: Display,
    workers: int = 0,
    cluster: Cluster | None = None,
    rejudge: bool = False,
) -> Outcome:
    """Train and judge all runs that are not finished, then write results.json.

    Runs that were judged otherwise are refused, or with `rejudge` judged anew.
    """
    part_b = any(plan.recipe.part == "B" for plan in study.plans)
    check_options(study, place, workers, part_b)
    data = load(study.dataset, place.root)
    for plan in study.plans:
        with naming(plan.recipe):
            check_images(plan.recipe.model, len(data.train_images))
    asked = study_json(study, data.shape, data.levels)
    jobs = jobs_of(study, folder, side_by_side=place.device.type == "cuda")
    check_claim(folder, asked, jobs, study.evaluation, data, rejudge)
    # Fails before anything is written, and trains once what is cached.
    features = features_for(data, place.features) if part_b else None
    # Where nothing is left to judge, only features that are asked for must be those of the scores.
    if features is not None and not rejudge and (unsettled(jobs) or place.features):
        check_features(jobs, features)
    with locked(folder, wait=True):
        claim(folder, asked, jobs, study.evaluation, data, rejudge)
    if rejudge:
        forget_others(folder, jobs, study.evaluation, features)
    # By all jobs: the last one, alone with all threads, would round otherwise than those before it.
    count = workers or (default_workers(len(jobs)) if place.device.type == "cpu" else 1)
    run_jobs(unsettled(jobs), place, study.evaluation, display, count, cluster)
    with locked(folder, wait=True):
        claim(folder, asked, jobs, study.evaluation, data)  # another study may have been here
        return Outcome(folder, gather(study, folder))


def run_jobs(
    todo: list[Job],
    place: Place,
    how: Evaluation,
    display: Display,
    workers: int,
    cluster: Cluster | None,
) -> None:
    """Run the jobs on the cluster, else on this machine: first those that no other process has,
    then, when these have ended, wait for the others."""
    for wait in (False, True):
        if cluster is not None:
            todo = run_on_ray(cluster, todo, place, how, display, wait)
        elif workers == 1:
            todo = run_here(todo, place, how, display, wait)
        else:
            todo = run_processes(todo, place, how, display, workers, wait)


def unsettled(jobs: Sequence[Job]) -> list[Job]:
    """Those of which something is not done."""
    return [job for job in jobs if not all(job.folder(seed).settled for seed in job.seeds)]


def check_options(study: Study, place: Place, workers: int, part_b: bool) -> None:
    """UserError for a number of workers that cannot be, or features that nothing is judged on."""
    if workers < 0:
        raise UserError(
            f"--workers {workers} cannot be used; choose 1 or more, or 0 for one on each core, and "
            f"one on a GPU"
        )
    if place.features and not part_b:
        raise UserError(
            f"--features {place.features} has no effect on {study.name}, which has no model of "
            f"part B; leave it out"
        )


def check_features(jobs: Sequence[Job], features: Features) -> None:
    """Refuse to judge runs on other features than those before: no table could hold both."""
    for run in (job.folder(s) for job in jobs for s in job.seeds):
        if other := run.other_features(features.hash):
            told = f"the features {other!r}, not {features.name!r}; choose --features as then, or"
            if other == features.name:  # an earlier version's, or trained on another machine
                told = f"other weights of {other!r}, not these;"
            raise UserError(
                f"{run.path} was judged on {told} add --rejudge, which judges such runs anew "
                f"without training them"
            )


def forget_others(
    folder: Path, jobs: Sequence[Job], how: Evaluation, features: Features | None
) -> None:
    """Drop the scores of runs that were judged by other settings, or on other features, and what
    was made of them; of none, if one of them has lost its weights."""
    others = [
        run
        for job in jobs
        for run in map(job.folder, job.seeds)
        if run.judged_otherwise(job.recipe, how) or (features and run.other_features(features.hash))
    ]
    for run in others:
        run.check_weights()
    for run in others:
        run.forget_scores()
    if others:
        (folder / "results.json").unlink(missing_ok=True)  # until all are judged


def claim(
    folder: Path,
    asked: dict[str, Any],
    jobs: Sequence[Job],
    how: Evaluation,
    data: Dataset,
    rejudge: bool = False,
) -> None:
    """Write study.json, if nothing speaks against it."""
    check_claim(folder, asked, jobs, how, data, rejudge)
    write_text(folder / "study.json", pretty(sealed(asked)))


def check_claim(
    folder: Path,
    asked: dict[str, Any],
    jobs: Sequence[Job],
    how: Evaluation,
    data: Dataset,
    rejudge: bool,
) -> None:
    """Refuse a folder that holds a study of another name or data set, or of a later version, or a
    run that is not as asked for. Recipes and seeds may come and go."""
    path = folder / "study.json"
    before = of_this_version(path) if path.exists() else asked
    if not isinstance(before, dict):
        raise UserError(f"{path} holds no study; delete it, or choose another folder with --out")
    for key in ("name", "dataset"):
        if before.get(key) != asked[key]:
            raise UserError(
                f"{folder} holds a study with {key} = {before.get(key)!r}, not {asked[key]!r}; "
                f"choose another folder with --out"
            )
    for job in jobs:
        for seed in job.seeds:
            check_run(job.folder(seed), job.recipe, seed, how, data, rejudge)


def check_run(
    run: RunFolder, recipe: Recipe, seed: int, how: Evaluation, data: Dataset, rejudge: bool
) -> None:
    """Refuse a run that was trained with other settings or images, or judged otherwise unless it is
    to be judged anew: of either the report would say what is not so."""
    if run.finished:
        run.config()  # or there is no saying of what its scores are
    if not run.readable:  # its job says what is wrong, and the others are run
        return
    run.check_config(recipe, data.name, seed)
    run.check_data(data)
    if not rejudge:
        run.check_judged(recipe, how)
    elif run.judged_otherwise(recipe, how):
        run.check_weights()


def jobs_of(study: Study, folder: Path, side_by_side: bool) -> list[Job]:
    """The study's jobs, those that take longest first so that no core idles at the end.

    With `side_by_side` the seeds of a model are one job, except where it has convolutions: those
    fill a GPU one by one, and torch has none that are stacked in bfloat16.
    """
    groups = []
    for plan in study.plans:
        together = side_by_side and not convolves(plan.recipe.model)
        stacks = [plan.seeds] if together else [(seed,) for seed in plan.seeds]
        groups += [(plan.recipe, seeds) for seeds in stacks]
    order = {"ddpm": 0, "pixelflow": 1, "latent": 2, "vae": 3}
    groups.sort(key=lambda g: (order[g[0].model.kind], -g[0].train.epochs))
    return [Job(recipe, seeds, folder) for recipe, seeds in groups]


def gather(study: Study, folder: Path) -> dict[str, Any]:
    """Collect every run's scores and failures into results.json."""
    scores, failures = {}, []
    for plan in study.plans:
        for seed in plan.seeds:
            run = RunFolder.of(folder, plan.recipe.name, seed)
            if run.finished:
                scores.setdefault(plan.recipe.name, {})[seed] = run.scores()
            else:
                reason = run.failure() or "not finished"
                failures.append({"model": plan.recipe.name, "seed": seed, "reason": reason})
    found = sealed(results(study.name, scores, failures))
    write_text(folder / "results.json", pretty(found))
    return found


def device_named(name: str) -> torch.device:
    """The device of --device, if this machine has it."""
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(name, False):
        usable = ", ".join(k for k, v in available.items() if v)
        raise UserError(f"--device {name} is not available here; choose one of {usable}")
    return torch.device(name)
