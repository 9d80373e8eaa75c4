"""Copies of a run's log for TensorBoard, Weights & Biases or MLflow, where --track asks for them.

metrics.jsonl and scores.json stay what is true of a run. Each tracker has a thread of its own, so
that a run neither waits for it nor ends with it: one that fails, or that has not taken everything
half a minute after the run is done, is given up with one line on stderr. A run that is resumed goes
on in the trackers too; what it had logged after its checkpoint is there twice, the same.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Literal, Protocol
from uuid import UUID, uuid4

from triptych.errors import UserError
from triptych.study.lock import locked
from triptych.train.files import write_text
from triptych.train.trainer import Listener, Values

PATIENCE = 30.0  # seconds that a tracker has after the run
MLFLOW_TAKES = 1_000  # numbers at a time
Ending = Literal["FINISHED", "FAILED", "KILLED"]
Line = tuple[int, Values]  # a step, and what is logged there


@dataclass(frozen=True)
class Track:
    """Which trackers are told of the runs of a study, and where that is."""

    names: tuple[str, ...] = ()
    study: Path = Path()

    def name_of(self, run: Path) -> str:
        """Of a run's folder: its path in the study, MODEL/seed-S."""
        whole, root = run.resolve(), self.study.resolve()
        inside = whole.is_relative_to(root)
        return whole.relative_to(root).as_posix() if inside else f"{run.parent.name}/{run.name}"


UNTRACKED = Track()


class Tracker(Protocol):
    """Takes the numbers of the run in the folder that it is made with, which has an id."""

    def __init__(self, run: Path, track: Track, id: str) -> None: ...

    def log(self, lines: Sequence[Line]) -> None:
        """Steps, each with numbers by name."""
        ...

    def close(self, ending: Ending) -> None:
        """Write what is still held back, and how the run ended."""
        ...


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir STUDY`."""

    def __init__(self, run: Path, track: Track, id: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, lines: Sequence[Line]) -> None:
        for step, values in lines:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self, ending: Ending) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of $WANDB_PROJECT, else of the project triptych. With WANDB_MODE=offline nothing leaves
    RUN/wandb."""

    def __init__(self, run: Path, track: Track, id: str) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "triptych"),
            group=track.study.resolve().name,
            name=track.name_of(run),
            id=id,
            resume="allow",
            reinit="create_new",
            dir=str(run),
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric="step")

    def log(self, lines: Sequence[Line]) -> None:
        for step, values in lines:
            self.run.log({"step": step, **values})

    def close(self, ending: Ending) -> None:
        self.run.finish(0 if ending == "FINISHED" else 1)


class MLflow:
    """A run of the experiment STUDY at $MLFLOW_TRACKING_URI, else in STUDY/mlflow.db:
    `mlflow ui --backend-store-uri sqlite:///STUDY/mlflow.db`."""

    def __init__(self, run: Path, track: Track, id: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        study, name = track.study.resolve(), track.name_of(run)
        if "MLFLOW_TRACKING_URI" not in os.environ and not study.is_dir():
            raise OSError("the study's folder is not seen from here; set MLFLOW_TRACKING_URI")
        lock = locked(study / ".mlflow", wait=True) if study.is_dir() else nullcontext()
        here = f"sqlite:///{study / 'mlflow.db'}"
        with lock:  # only one may make the tables
            self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", here))
            found = self.client.get_experiment_by_name(study.name)
            experiment = found.experiment_id if found else self.client.create_experiment(study.name)
            same = self.client.search_runs([experiment], f"tags.id = '{id}'")
            tags = {"id": id}
            mine = same[0] if same else self.client.create_run(experiment, None, tags, name)
        self.id = mine.info.run_id
        self.client.update_run(self.id, status="RUNNING")

    def log(self, lines: Sequence[Line]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, v, now, step) for step, vs in lines for name, v in vs.items()]
        for i in range(0, len(metrics), MLFLOW_TAKES):
            self.client.log_batch(self.id, metrics[i : i + MLFLOW_TAKES])

    def close(self, ending: Ending) -> None:
        self.client.set_terminated(self.id, ending)


TRACKERS: dict[str, tuple[type[Tracker], tuple[str, ...]]] = {
    "tensorboard": (TensorBoard, ("tensorboard",)),
    "wandb": (WeightsAndBiases, ("wandb",)),
    "mlflow": (MLflow, ("mlflow", "sqlalchemy", "alembic")),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError where one is asked for that is not installed or has no account."""
    for name in names:
        missing = [package for package in TRACKERS[name][1] if find_spec(package) is None]
        if missing:
            raise UserError(
                f"--track {name} needs {' and '.join(missing)}, not installed here; pip install "
                f"'triptych[trackers]', or leave it out"
            )
    if "wandb" in names and not knows_wandb():
        raise UserError(
            "--track wandb has no account to log to; run `wandb login`, set WANDB_API_KEY, or set "
            "WANDB_MODE=offline"
        )


def knows_wandb() -> bool:
    """Whether Weights & Biases has a key, or needs none."""
    if os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
        return True
    import wandb

    if "prompt" not in signature(wandb.login).parameters:  # in older releases it would ask
        return bool(wandb.api.api_key)
    return wandb.login(prompt=False, verify=False)


given_up: set[str] = set()
"""Trackers that this process has lost."""


@contextmanager
def tracking(run: Path, track: Track) -> Iterator[Listener]:
    """What is to be told of a run's numbers, for as long as the context lasts."""
    names = [name for name in track.names if name not in given_up]
    id = id_of(run) if names else ""
    mine = [TrackerThread(name, run, track, id) for name in names]

    def listener(step: int, values: Values) -> None:
        finite = {name: float(v) for name, v in values.items() if math.isfinite(v)}
        for tracker in mine:
            tracker.said.put((step, finite))

    ending: Ending = "KILLED"
    try:
        yield listener
        ending = "FAILED" if (run / "failure.json").exists() else "FINISHED"
    finally:
        for tracker in mine:
            tracker.said.put(ending)
        end = time.monotonic() + PATIENCE
        for tracker in mine:
            tracker.finish(end - time.monotonic())


class TrackerThread:
    """A tracker in a thread, which begins with the first number and cannot stop a run."""

    def __init__(self, name: str, run: Path, track: Track, id: str) -> None:
        self.name, self.run, self.track, self.id = name, run, track, id
        self.said: SimpleQueue[Line | Ending] = SimpleQueue()
        self.thread = Thread(target=self.follow, name=name, daemon=True)
        self.thread.start()

    def follow(self) -> None:
        """Pass on what is said, to the end: all that waits at once, as a call of a database takes
        longer than many a line of the log."""
        tracker: Tracker | None = None
        ending: Ending | None = None
        try:
            while ending is None:
                lines, ending = self.waiting()
                if lines and tracker is None:
                    tracker = TRACKERS[self.name][0](self.run, self.track, self.id)
                if lines and tracker is not None:
                    tracker.log(lines)
            if tracker is not None:
                tracker.close(ending)
        except Exception as error:
            self.give_up(" ".join(str(error).split())[:200] or type(error).__name__)

    def waiting(self) -> tuple[list[Line], Ending | None]:
        """What was said and not yet passed on, one line or more, and the ending if that was too."""
        lines: list[Line] = []
        while not lines or not self.said.empty():
            said = self.said.get()
            if isinstance(said, str):
                return lines, said
            lines.append(said)
        return lines, None

    def finish(self, seconds: float) -> None:
        """Wait so long until everything is passed on; not again for one that is given up."""
        self.thread.join(0.0 if self.name in given_up else max(0.0, seconds))
        if self.thread.is_alive():
            self.give_up(f"it has not taken everything {PATIENCE:.0f} s after the run")

    def give_up(self, why: str) -> None:
        """For this process, with a word to the user."""
        if self.name in given_up:
            return
        given_up.add(self.name)
        with suppress(OSError):
            print(
                f"triptych: {self.name} is given up from {self.run} on ({why}); metrics.jsonl has "
                f"everything",
                file=sys.stderr,
            )


def id_of(run: Path) -> str:
    """What the trackers know this run by: drawn once, and kept in its folder."""
    path, drawn = run / "tracked", uuid4().hex
    with suppress(OSError, ValueError):
        return UUID(path.read_text().strip()).hex
    with suppress(OSError):
        write_text(path, drawn + "\n")
    return drawn
