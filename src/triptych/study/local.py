"""The engine of this machine: a process for each core on a CPU, seeds side by side on a GPU."""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from triptych.data import load
from triptych.evaluate.classifier import features_for
from triptych.evaluate.judge import Evaluation
from triptych.study.run import Job, evaluate, train
from triptych.train.fit import Progress
from triptych.train.signals import StopRequested

Display = Callable[[Job, Progress | str], None]


@dataclass(frozen=True)
class Place:
    """Where the data and the feature network come from, and which device does the work."""

    dataset: str
    root: Path | None
    features: Path | None
    device: torch.device


def run_job(
    job: Job, place: Place, how: Evaluation, tell: Callable[[Progress | str], None]
) -> None:
    """Train and judge what of a job is not done."""
    data = load(place.dataset, place.root).to(place.device)
    train(job, data, progress=tell)
    for seed in job.seeds:
        folder = job.folder(seed)
        if not folder.finished and folder.failure() is None:
            tell(f"evaluating seed {seed}")
            needs_features = job.recipe.part == "B"
            features = features_for(data, place.features) if needs_features else None
            features = features.to(place.device) if features else None
            evaluate(folder, data, how, features)


def run_here(jobs: Sequence[Job], place: Place, how: Evaluation, display: Display) -> None:
    """One job after another in this process."""
    for job in jobs:
        run_job(job, place, how, lambda p, job=job: display(job, p))
        display(job, "done")


def run_processes(
    jobs: Sequence[Job], place: Place, how: Evaluation, display: Display, workers: int
) -> None:
    """Several processes of one thread each. A job that fails is noted and does not stop others."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        messages = manager.Queue()
        pool = ProcessPoolExecutor(workers, context, initializer=_one_thread)
        try:
            futures = {
                pool.submit(_worker, i, j, place, how, messages): j for i, j in enumerate(jobs)
            }
            _follow(futures, jobs, messages, display)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _worker(index: int, job: Job, place: Place, how: Evaluation, messages: Any) -> str:
    """Runs in its own process: "done", "stopped", or why the job failed."""
    try:
        run_job(job, place, how, lambda p: messages.put((index, p)))
    except StopRequested:
        return "stopped"
    except Exception as error:
        (job.folder(job.seeds[0]).path / "traceback.txt").write_text(traceback.format_exc())
        for seed in job.seeds:
            if not job.folder(seed).finished:
                job.folder(seed).write_failure(f"{type(error).__name__}: {error}")
        return f"failed: {error}"
    return "done"


def _follow(
    futures: dict[Future[str], Job], jobs: Sequence[Job], messages: Any, display: Display
) -> None:
    """Pass on what the workers say until all have ended."""
    pending, stopped = set(futures), False
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        while True:
            try:
                index, said = messages.get_nowait()
            except queue.Empty:
                break
            display(jobs[index], said)
        for future in done:
            word = future.result()
            stopped |= word == "stopped"
            display(futures[future], word)
    if stopped:
        raise KeyboardInterrupt


def default_workers(jobs: int) -> int:
    """A process for each core that this process may use, and no more than there are jobs."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(cores, jobs))
