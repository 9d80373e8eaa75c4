"""The engine of a Ray cluster (https://docs.ray.io), on this machine or elsewhere: a task a job.

A task whose worker dies is begun again by Ray and goes on from its checkpoint. Where a worker sees
the study's folder it writes there. Where it does not, it works in a folder of its own, from what
the study has of the run, and what comes of it is fetched back.
"""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

import torch

from triptych.data import Dataset, load
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study.configs import LatentDDPMConfig
from triptych.study.local import HELD, Display, Place, attempt, note_failure
from triptych.study.lock import HeldError, locked
from triptych.study.run import Job, autoencoder_job
from triptych.train import checkpoint
from triptych.train.files import write_bytes
from triptych.train.fit import Progress

RETRIES = 3  # of a job whose worker died
TOKEN = "ray-token"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Cluster:
    """Which Ray, and what of it a job needs."""

    address: str | None = None
    """ray://HOST:PORT; None: one on this machine, made for the study"""
    cores: int = 0
    """of a cluster on this machine; 0: all"""
    gpus: float = 1.0
    """of a job whose device is a GPU; 0.5: two jobs share one"""


def cluster_named(on: str | None, cores: int, gpus: float | None) -> Cluster | None:
    """The cluster of --on; None without it."""
    if on is None:
        if gpus is not None:
            raise UserError(
                f"--gpus-per-run {gpus:g} is of runs on Ray; give --on, or leave it out"
            )
        return None
    gpus = 1.0 if gpus is None else gpus
    if on != "ray" and not on.startswith("ray://"):
        raise UserError(
            f"--on {on} is not a cluster; choose ray, or ray://HOST:PORT of one that is running"
        )
    if gpus <= 0:
        raise UserError(f"--gpus-per-run {gpus:g} cannot be had; choose more than 0")
    if find_spec("ray") is None:
        raise UserError(
            "--on ray needs Ray, which is not installed; pip install 'triptych[ray]', or leave out "
            "--on"
        )
    return Cluster(None if on == "ray" else on, cores, gpus)


def run_on_ray(
    cluster: Cluster,
    jobs: Sequence[Job],
    place: Place,
    how: Evaluation,
    display: Display,
    wait: bool = False,
) -> list[Job]:
    """Run the jobs; one that fails or loses its workers is noted and stops no other. Returns those
    that other processes have."""
    if not jobs:
        return []
    ray = connect(cluster)
    try:
        lasting = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        board: Any = lasting(Board).remote()
        gpus = cluster.gpus if place.device.type == "cuda" else 0
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(work)
        data = ray.put(load(place.dataset, place.root))
        with token_in(jobs[0].study) as token:
            running = {}
            for i, job in enumerate(jobs):
                asked = replace(job, study=job.study.resolve())
                given = files_of(job) if cluster.address else {}
                ref = task.remote(asked, place, how, wait, data, given, token, board, i)
                running[ref] = job
            return follow(ray, running, jobs, board, display, wait)
    finally:
        ray.shutdown()


def connect(cluster: Cluster) -> Any:
    """Ray, connected, and told to report its use to nobody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # pyright: ignore[reportMissingImports]

    here: dict[str, Any] = {}
    if cluster.address is None:
        here = {"num_cpus": cluster.cores or None, "include_dashboard": False}
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--on {cluster.address or 'ray'} cannot be reached ({error}); start that cluster, or "
            f"name another"
        ) from None
    return ray


def follow(
    ray: Any, running: dict[Any, Job], jobs: Sequence[Job], board: Any, display: Display, wait: bool
) -> list[Job]:
    """Pass on what is said of the jobs until all have ended. Returns those that other processes
    have; with `wait` none."""
    held = []
    while running:
        ended, _ = ray.wait(list(running), timeout=0.5)
        for i, said in ray.get(board.take.remote()):
            display(jobs[i], said)
        for ref in ended:
            job = running.pop(ref)
            try:
                word, files = ray.get(ref)
                put_back(job, files, wait)
            except HeldError as error:
                word = f"{HELD}{error}"
            except ray.exceptions.RayError as error:
                reason = f"its worker was lost {RETRIES + 1} times ({type(error).__name__})"
                note_failure(job, reason)
                word = f"failed: {reason}"
            display(job, word)
            if word.startswith(HELD):
                held.append(job)
    return held


class Board:
    """Where tasks write what the study's process shows; if it is lost, Ray begins an empty one."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Progress | str]] = []

    def tell(self, i: int, said: Progress | str) -> None:
        """What is said of the i-th job."""
        self.rows.append((i, said))

    def take(self) -> list[tuple[int, Progress | str]]:
        """All of it, once."""
        rows, self.rows = self.rows, []
        return rows


def work(
    job: Job,
    place: Place,
    how: Evaluation,
    wait: bool,
    data: Dataset,
    given: Files,
    token: str,
    board: Any,
    i: int,
) -> tuple[str, Files]:
    """In a worker: run the job. Returns how it ended, and its files where the study is not seen."""
    torch.set_num_threads(1)
    place = replace(place, data=data)

    def tell(said: Progress | str) -> None:
        board.tell.remote(i, said)

    if sees(job.study, token):
        return attempt(job, place, how, tell, wait), {}
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
        here = replace(job, study=Path(folder))
        put_back(here, given)
        return attempt(here, place, how, tell, wait), files_of(here)


@contextmanager
def token_in(study: Path) -> Iterator[str]:
    """A secret in the study's folder, by which a worker knows that it sees that very folder."""
    token = secrets.token_hex(16)
    write_bytes(study / TOKEN, token.encode())
    try:
        yield token
    finally:
        (study / TOKEN).unlink(missing_ok=True)


def sees(study: Path, token: str) -> bool:
    """Whether the folder of that name is the one with the token."""
    try:
        return (study / TOKEN).read_text() == token
    except OSError:
        return False


def files_of(job: Job) -> Files:
    """What there is of a job, by its path in the study; locks are no part of it."""
    latent = isinstance(job.recipe.model, LatentDDPMConfig)
    parts = [job, autoencoder_job(job)] if latent else [job]
    roots = [part.folder(seed).path for part in parts for seed in job.seeds]
    paths = (p for root in roots for p in root.rglob("*") if p.is_file() and p.name != "lock")
    return {p.relative_to(job.study).as_posix(): p.read_bytes() for p in paths}


def put_back(job: Job, files: Files, wait: bool = False) -> None:
    """Write what a worker sent into the study's folder. A failure noted there that is not sent too
    was of an earlier try, and is dropped. What another process has finished meanwhile is left as it
    is.

    Raises:
        HeldError: another process began a run while the worker, which sees no locks, was at it, and
            is not to be waited for.
    """
    with ExitStack() as locks:
        for seed in sorted(job.seeds) if files else ():
            locks.enter_context(locked(job.folder(seed).path, wait))
        if all(job.folder(seed).finished for seed in job.seeds):
            return
        for name in files:
            (job.study / name).with_name("failure.json").unlink(missing_ok=True)
        _write(job.study, files)


def _write(study: Path, files: Files) -> None:
    """Write in an order that lets the run go on wherever this breaks off: config.json first, which
    says what a checkpoint is of; then the older checkpoint before the newer, each whole or not at
    all; scores.json last, as a run that has it counts as finished."""
    paths = sorted(map(PurePath, files))
    plain = [p for p in paths if p.parent.name not in checkpoint.PLACES]
    scores = [p for p in plain if p.name == "scores.json"]
    for path in sorted(plain, key=lambda p: p.name != "config.json"):
        if path not in scores:
            write_bytes(study / path, files[str(path)])
    for place in reversed(checkpoint.PLACES):
        for folder in dict.fromkeys(p.parent for p in paths if p.parent.name == place):
            found = {p.name: files[str(p)] for p in paths if p.parent == folder}
            checkpoint.put(study / folder, found)
    for path in scores:
        write_bytes(study / path, files[str(path)])
