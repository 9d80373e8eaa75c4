"""The engine of this machine: a process for each core on a CPU, seeds side by side on a GPU."""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from triptych.data import load
from triptych.evaluate.evaluation import Evaluation
from triptych.study.run import Job, evaluate, train
from triptych.train.files import write_text
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
            evaluate(folder, data, how, place.features)


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
    messages = context.Queue()
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(messages,))
    try:
        submitted = [pool.submit(_worker, i, job, place, how) for i, job in enumerate(jobs)]
        _follow(dict(zip(submitted, jobs, strict=True)), jobs, messages, display)
    finally:
        # On Ctrl-C the workers save their checkpoints; what has not begun is dropped.
        pool.shutdown(wait=True, cancel_futures=True)


_messages: Any = None


def _start_worker(messages: Any) -> None:
    global _messages
    _messages = messages
    torch.set_num_threads(1)


def _worker(index: int, job: Job, place: Place, how: Evaluation) -> str:
    """Runs in its own process: "done", "stopped", or why the job failed."""
    try:
        run_job(job, place, how, lambda said: _messages.put((index, said)))
    except StopRequested:
        return "stopped"
    except Exception as error:
        for seed in job.seeds:
            if not job.folder(seed).finished:
                job.folder(seed).write_failure(f"{type(error).__name__}: {error}")
        write_text(job.study / job.recipe.name / "traceback.txt", traceback.format_exc())
        return f"failed: {error}"
    return "done"


def _follow(
    futures: dict[Future[str], Job], jobs: Sequence[Job], messages: Any, display: Display
) -> None:
    """Pass on what the workers say until all have ended."""
    pending, stopped = set(futures), False
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        with suppress(queue.Empty):
            while True:
                index, said = messages.get_nowait()
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
