"""What the runs logged while they were trained, as lines of a small chart for each model."""

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triptych.errors import UserError
from triptych.report.load import Recipe, Study
from triptych.report.wording import count, decimals_for, number

WIDTH, HEIGHT = 300.0, 150.0  # of the plane in which lines are given
SETTLED = 0.1  # of the steps: how it began would squeeze all that comes after
TICKS = 4
MOST = 1e12
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One run's loss in training, or that of its averaged weights on the validation images."""

    seed: int
    validation: bool
    points: str
    end: str


@dataclass(frozen=True)
class Chart:
    """Lines as SVG has them, and (place, text) of each axis' ticks."""

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def chart(study: Study, recipe: Recipe) -> Chart | None:
    """The training of every run of a model that has a log."""
    logs: list[tuple[int, bool, Points]] = []
    for seed in study.seeds:
        path = study.folder / recipe.name / f"seed-{seed}" / "metrics.jsonl"
        if path.is_file():
            loss, validation = read_log(path)
            logs += [(seed, False, loss), (seed, True, validation)]
    logs = [log for log in logs if log[2]]
    if not logs:
        return None
    last = max(points[-1][0] for *_, points in logs)
    settled = [y for *_, points in logs for x, y in points if x >= SETTLED * last]
    low, high = min(settled), max(settled)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def placed(points: Points) -> str:
        inside = [(x, y) for x, y in points if y <= high]
        return " ".join(
            f"{x / last * WIDTH:.1f},{(high - y) / (high - low) * HEIGHT:.1f}" for x, y in inside
        )

    lines = [Line(seed, kind, placed(p), _number(p[-1][1])) for seed, kind, p in logs]
    x_ticks = [(x / last * WIDTH, count(int(x))) for x in ticks(0, last)]
    y_ticks = [((high - y) / (high - low) * HEIGHT, _number(y)) for y in ticks(low, high)]
    return Chart(lines, x_ticks, y_ticks)


def read_log(path: Path) -> tuple[Points, Points]:
    """(step, loss) and (step, validation loss) of metrics.jsonl. Its last line may be torn.

    Raises:
        UserError: another line is not what a run logs.
    """
    try:
        *lines, last = path.read_text(encoding="utf-8").splitlines() or [""]
        rows = [json.loads(line) for line in lines]
        with suppress(ValueError):
            rows.append(json.loads(last))
        loss, validation = (
            [(float(row["step"]), float(row[key])) for row in rows if key in row]
            for key in ("loss", "validation")
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or delete it") from None
    return finite(loss), finite(validation)


def finite(points: Points) -> Points:
    """Those that have a place on an axis."""
    return [(x, y) for x, y in points if 0 < x < MOST and abs(y) < MOST]


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers between the two."""
    raw = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    return [float(v) for v in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step]


def _number(value: float) -> str:
    """Of losses, which may be in nats or in hundredths: to three digits or more."""
    return number(value, 1 if abs(value) >= 10 else decimals_for([value]))
