"""Copies of a run's log for TensorBoard, Weights & Biases or MLflow, where --track asks for them.

metrics.jsonl and scores.json stay what is true of a run. A tracker that fails is given up with one
line on stderr, and the run goes on. A run that is resumed goes on in the trackers too; what it had
logged after its checkpoint is there twice, with the same numbers.
"""

import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from triptych.protocols import UserError
from triptych.study.lock import locked
from triptych.train.trainer import Listener, Values


class Tracker(Protocol):
    """Takes the numbers of the run in the folder that it is made with."""

    def __init__(self, run: Path) -> None: ...

    def log(self, step: int, values: Values) -> None:
        """Numbers by name."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir STUDY`."""

    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of $WANDB_PROJECT, else of the project triptych. With WANDB_MODE=offline nothing leaves
    RUN/wandb. A run that is resumed keeps its id."""

    def __init__(self, run: Path) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "triptych"),
            group=group_of(run),
            name=name_of(run),
            id=hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:16],
            resume="allow",
            reinit="create_new",
            dir=str(run),
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Values) -> None:
        self.run.log({"step": step, **values})

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of the experiment STUDY at $MLFLOW_TRACKING_URI, else in STUDY/mlflow.db:
    `mlflow ui --backend-store-uri sqlite:///STUDY/mlflow.db`."""

    def __init__(self, run: Path) -> None:
        from mlflow import MlflowClient

        study = run.parents[1].resolve()
        here = f"sqlite:///{study / 'mlflow.db'}"
        with locked(study / ".mlflow", wait=True):  # only one may make the tables
            self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", here))
            found = self.client.get_experiment_by_name(group_of(run))
            where = found.experiment_id if found else self.client.create_experiment(group_of(run))
            same = self.client.search_runs([where], f"tags.folder = '{name_of(run)}'")
            tags = {"folder": name_of(run)}
            self.run = same[0] if same else self.client.create_run(where, None, tags, name_of(run))

    def log(self, step: int, values: Values) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run.info.run_id, metrics)

    def close(self) -> None:
        self.client.set_terminated(self.run.info.run_id)


TRACKERS: dict[str, tuple[type[Tracker], tuple[str, ...]]] = {
    "tensorboard": (TensorBoard, ("tensorboard",)),
    "wandb": (WeightsAndBiases, ("wandb",)),
    "mlflow": (MLflow, ("mlflow", "sqlalchemy", "alembic")),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError where one is asked for that is not installed."""
    for name in names:
        missing = [package for package in TRACKERS[name][1] if find_spec(package) is None]
        if missing:
            raise UserError(
                f"--track {name} needs {' and '.join(missing)}, not installed here; pip install "
                f"'triptych[trackers]', or leave it out"
            )


@contextmanager
def tracking(run: Path, names: Sequence[str]) -> Iterator[Listener]:
    """What is to be told of a run's numbers, for as long as the context lasts."""
    mine = [Careful(name, run) for name in names]

    def listener(step: int, values: Values) -> None:
        finite = {name: float(v) for name, v in values.items() if math.isfinite(v)}
        for tracker in mine:
            tracker.log(step, finite)

    try:
        yield listener
    finally:
        for tracker in mine:
            tracker.close()


class Careful:
    """A tracker that begins with the first number, and cannot stop a run."""

    def __init__(self, name: str, run: Path) -> None:
        self.name, self.run = name, run
        self.tracker: Tracker | None = None
        self.given_up = False

    def log(self, step: int, values: Values) -> None:
        with self.guard():
            if not self.given_up:
                self.tracker = self.tracker or TRACKERS[self.name][0](self.run)
                self.tracker.log(step, values)

    def close(self) -> None:
        with self.guard():
            if self.tracker and not self.given_up:
                self.tracker.close()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Whatever a tracker raises is said once."""
        try:
            yield
        except Exception as error:
            self.given_up = True
            why = " ".join(str(error).split())[:200] or type(error).__name__
            with suppress(OSError):
                print(
                    f"triptych: {self.name} is given up for {self.run} ({why}); metrics.jsonl has "
                    f"everything",
                    file=sys.stderr,
                )


def group_of(run: Path) -> str:
    """The study that a run belongs to."""
    return run.resolve().parents[1].name


def name_of(run: Path) -> str:
    """MODEL/seed-S."""
    return f"{run.parent.name}/{run.name}"
