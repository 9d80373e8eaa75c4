"""What the runs logged while they were trained, as lines of a small chart for each model."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triptych.errors import UserError
from triptych.report.wording import count, decimals_for, number

WIDTH, HEIGHT = 300.0, 150.0  # of the plane in which lines are given
SETTLED = 0.1  # of the steps: how it began would squeeze all that comes after
LOG = "metrics.jsonl"
TICKS = 4
MOST = 1e12
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One run's loss in training, or that of its averaged weights on the validation images; `end`:
    its last value."""

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


def chart(runs: Sequence[tuple[int, Path]]) -> Chart | None:
    """The training of those of the runs, (seed, folder), that have a log."""
    logs: list[tuple[int, bool, Points]] = []
    for seed, path in ((seed, folder / LOG) for seed, folder in runs):
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
        inside = [(x, y) for x, y in points if low <= y <= high]
        return " ".join(
            f"{x / last * WIDTH:.1f},{(high - y) / (high - low) * HEIGHT:.1f}" for x, y in inside
        )

    lines = [
        Line(seed, kind, placed(p), number(p[-1][1], decimals_for([p[-1][1]])))
        for seed, kind, p in logs
    ]
    across = [x for x in ticks(0, last) if x == int(x)]
    up = ticks(low, high)
    decimals = max(0, -math.floor(math.log10(up[1] - up[0])))
    return Chart(
        lines,
        [(x / last * WIDTH, count(int(x))) for x in across],
        [((high - y) / (high - low) * HEIGHT, number(y, decimals)) for y in up],
    )


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
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or delete it") from None
    return finite(loss), finite(validation)


def finite(points: Points) -> Points:
    """Those that have a place on an axis."""
    return [(x, y) for x, y in points if 0 < x < MOST and abs(y) < MOST]


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers between the two, and two at least."""
    raw = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    found: list[float] = []
    for step in (unit * m for m in (10, 5, 2, 1)):
        if len(found) > 1 and step < raw:
            break
        whole = np.arange(math.ceil(low / step), math.floor(high / step) + 1)
        found = [float(v) for v in whole * step]
    return found
