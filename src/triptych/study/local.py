"""The engine of this machine: a process for each core on a CPU, seeds side by side on a GPU, which
several processes may share."""

import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection, get_context, resource_tracker
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count

from triptych.data import Dataset, load
from triptych.evaluate.evaluation import Evaluation
from triptych.study.lock import HeldError, locked
from triptych.study.run import Job, evaluate, train
from triptych.study.trackers import UNTRACKED, Track
from triptych.train.allocation import keep_freed_memory, keep_to_granted_cores
from triptych.train.determinism import deterministic
from triptych.train.faults import explain
from triptych.train.files import write_text
from triptych.train.fit import Progress
from triptych.train.signals import Stop, Stopped, stop_on_signals

Tell = Callable[[Progress | str], None]
Display = Callable[[Job, Progress | str], None]
HELD = "left to another process: "
EVALUATING = "evaluating"


@dataclass(frozen=True)
class Place:
    """Where the data and the feature network come from, and which device does the work."""

    dataset: str
    root: Path | None
    features: Path | None
    device: torch.device
    data: Dataset | None = None
    """The data set itself, where a process was given it."""
    track: Track = UNTRACKED
    """Who else is told what is logged."""
    deterministic: bool = False
    """Only operations that always give the same."""

    def load(self) -> Dataset:
        """The data set, on the device, where what follows is done as asked."""
        deterministic(self.deterministic)
        keep_freed_memory()
        keep_to_granted_cores()
        return (self.data or load(self.dataset, self.root)).to(self.device)


def run_job(job: Job, place: Place, how: Evaluation, tell: Tell, wait: bool = False) -> None:
    """Train and judge what of a job is not done, while no other process does.

    Raises:
        HeldError: another one does, and `wait` is not asked for.
    """
    folders = {seed: job.folder(seed) for seed in sorted(job.seeds)}
    with ExitStack() as stack:
        for folder in folders.values():
            stack.enter_context(locked(folder.path, wait))
        todo = tuple(seed for seed, folder in folders.items() if not folder.settled)
        if not todo:
            return
        data = place.load()
        train(replace(job, seeds=todo), data, progress=tell, track=place.track)
        for seed in todo:
            if not folders[seed].settled:

                def say(what: str, seed: int = seed) -> None:
                    tell(f"{EVALUATING} seed {seed}: {what}")

                evaluate(folders[seed], data, how, place.features, place.track, say)


def attempt(job: Job, place: Place, how: Evaluation, tell: Tell, wait: bool) -> str:
    """Run a job and say how it ended: "done", or why not. A failure is noted, to be tried again."""
    try:
        run_job(job, place, how, tell, wait)
    except HeldError as error:
        return f"{HELD}{error}"
    except Exception as error:
        known = explain(error)
        reason = known[1] if known else f"{type(error).__name__}: {error}"
        note_failure(job, reason)
        if known is None:
            with suppress(OSError):
                trace = job.study / job.recipe.name / "traceback.txt"
                write_text(trace, traceback.format_exc())
        return f"failed: {reason}"
    reasons = [folder.failure() for folder in map(job.folder, job.seeds)]
    return next((f"failed: {reason}" for reason in reasons if reason), "done")


def note_failure(job: Job, reason: str) -> None:
    """Write down why the seeds that are not finished are not; on a full disk that too may fail."""
    for folder in map(job.folder, job.seeds):
        if not folder.settled:
            with suppress(OSError):
                folder.write_failure(reason, final=False)


def run_here(
    jobs: Sequence[Job], place: Place, how: Evaluation, display: Display, wait: bool = False
) -> list[Job]:
    """One job after another in this process. Returns those that other processes have."""
    held = []
    for job in jobs:
        word = attempt(job, place, how, partial(display, job), wait)
        display(job, word)
        if word.startswith(HELD):
            held.append(job)
    return held


class Worker:
    """A process of one thread that does one job after another; a new one if it is killed."""

    def __init__(self, place: Place, how: Evaluation, wait: bool) -> None:
        self.place, self.how, self.wait = place, how, wait
        self.job: Job | None = None
        self.start()

    def start(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        given = (theirs, self.place, self.how, self.wait)
        self.process = context.Process(target=_serve, args=given, daemon=True)
        # The process inherits the mask: Ctrl-C reaches the study alone, which asks its workers to
        # stop. Starting the resource tracker unblocks the signal, so it is not left to the first
        # process's start.
        resource_tracker.ensure_running()
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        theirs.close()

    def begin(self, job: Job) -> None:
        self.job = job
        with suppress(BrokenPipeError):  # a dead process is found when it is listened to
            self.pipe.send(job)

    def hear(self, stopping: bool) -> tuple[Job, Progress | str, bool]:
        """What the process says of its job, and whether that ends it; how it ended, if dead."""
        job = self.job
        assert job is not None
        try:
            said, ended = self.pipe.recv()
            self.job = None if ended else job
            return job, said, ended
        except (EOFError, OSError):
            self.process.join()
        self.job = None
        if stopping:
            return job, "stopped", True
        code = self.process.exitcode or 0
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
        reason = (
            f"its process {how}; if memory ran out, take fewer --workers or a smaller batch_size"
        )
        note_failure(job, reason)
        self.start()
        return job, f"failed: {reason}", True


def _serve(pipe: Any, place: Place, how: Evaluation, wait: bool) -> None:
    torch.set_num_threads(1)

    def tell(said: Progress | str) -> None:
        try:
            pipe.send((said, False))
        except OSError:  # the study is gone: save and stop
            os.kill(os.getpid(), signal.SIGTERM)

    with suppress(EOFError, OSError):
        while True:
            job = pipe.recv()
            try:
                word = attempt(job, place, how, tell, wait)
            except Stopped:
                word = "stopped"
            pipe.send((word, True))


def run_processes(
    jobs: Sequence[Job],
    place: Place,
    how: Evaluation,
    display: Display,
    workers: int,
    wait: bool = False,
) -> list[Job]:
    """Several processes. A job that fails or is killed is noted and does not stop others.

    Returns the jobs that other processes have. Raises Stopped when a signal asked for that, after
    what is being trained has been saved.
    """
    crew = [Worker(place, how, wait) for _ in range(min(workers, len(jobs)))]
    try:
        with stop_on_signals() as stop:
            held = _follow(crew, deque(jobs), display, stop)
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.join()
    if stop.requested:
        raise Stopped("stopped; everything is saved", stop.number)
    return held


def _follow(crew: list[Worker], todo: deque[Job], display: Display, stop: Stop) -> list[Job]:
    """Hand out the jobs and pass on what is said of them until all have ended."""
    held: list[Job] = []
    told = False
    while todo or any(worker.job for worker in crew):
        if stop.requested and not told:
            todo.clear()
            for worker in crew:
                worker.process.terminate()
            told = True
        for worker in crew:
            if worker.job is None and todo:
                worker.begin(todo.popleft())
        busy = {worker.pipe: worker for worker in crew if worker.job}
        for pipe in connection.wait(list(busy), timeout=0.2):
            worker = busy[pipe]  # pyright: ignore[reportArgumentType]
            job, said, ended = worker.hear(stop.requested)
            display(job, said)
            if ended and str(said).startswith(HELD):
                held.append(job)
    return held


def default_workers(jobs: int) -> int:
    """A process for each core that affinity and a container's quota grant this one, and no more
    than there are jobs."""
    return max(1, min(cpu_count(), jobs))
