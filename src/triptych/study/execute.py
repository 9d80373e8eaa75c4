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
        runs = (self.folder / f["model"] / f"seed-{f['seed']}" for f in self.results["failures"])
        return sum(not RunFolder(path).settled for path in runs)


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

    `rejudge` those too that were judged otherwise, which are refused else.
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
    if features is not None and not rejudge and (unsettled(jobs) or place.features):
        check_features(jobs, features)
    with locked(folder, wait=True):
        claim(folder, asked, jobs, study.evaluation, data, rejudge)
    if rejudge:
        forget_others(folder, jobs, study.evaluation, features)
    todo = unsettled(jobs)
    # By all jobs: the last one, alone with all threads, would round otherwise than those before it.
    count = workers or (default_workers(len(jobs)) if place.device.type == "cpu" else 1)
    for wait in (False, True):  # what other processes have is waited for when all else is done
        if cluster is not None:
            todo = run_on_ray(cluster, todo, place, study.evaluation, display, wait)
        elif count == 1:
            todo = run_here(todo, place, study.evaluation, display, wait)
        else:
            todo = run_processes(todo, place, study.evaluation, display, count, wait)
    with locked(folder, wait=True):
        claim(folder, asked, jobs, study.evaluation, data)  # another study may have been here
        return Outcome(folder, gather(study, folder))


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
    plain: dict[str, Any],
    jobs: Sequence[Job],
    how: Evaluation,
    data: Dataset,
    rejudge: bool = False,
) -> None:
    """Write study.json, if nothing speaks against it."""
    check_claim(folder, plain, jobs, how, data, rejudge)
    write_text(folder / "study.json", pretty(sealed(plain)))


def check_claim(
    folder: Path,
    plain: dict[str, Any],
    jobs: Sequence[Job],
    how: Evaluation,
    data: Dataset,
    rejudge: bool,
) -> None:
    """Refuse a folder that holds a study of another name or data set, or of a later version, and
    runs that were trained or (unless they are to be judged anew) judged otherwise, of which the
    report would say what is not so. Recipes and seeds may come and go."""
    path = folder / "study.json"
    before = of_this_version(path) if path.exists() else plain
    if not isinstance(before, dict):
        raise UserError(f"{path} holds no study; delete it, or choose another folder with --out")
    for key in ("name", "dataset"):
        if before.get(key) != plain[key]:
            raise UserError(
                f"{folder} holds a study with {key} = {before.get(key)!r}, not {plain[key]!r}; "
                f"choose another folder with --out"
            )
    for job in jobs:
        for seed in job.seeds:
            run = job.folder(seed)
            if run.finished:
                run.config()  # or there is no saying of what its scores are
            if run.readable:  # else its job says what is wrong, and the others are run
                run.check_config(job.recipe, data.name, seed)
                run.check_data(data)
                if not rejudge:
                    run.check_judged(job.recipe, how)
                elif run.judged_otherwise(job.recipe, how):
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
            run = RunFolder(folder / plan.recipe.name / f"seed-{seed}")
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
