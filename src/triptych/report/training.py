"""What the runs logged while they were trained, as lines of a small chart for each model."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from triptych.errors import UserError
from triptych.report.wording import count, decimals_for, number

WIDTH, HEIGHT = 300.0, 150.0  # of the plane in which lines are given
SETTLED = 0.1  # of the steps: how it began would squeeze all that comes after
LOG = "metrics.jsonl"
LOSSES = ("loss", "validation")
RATE = ("validation log_qz", "validation log_pz")
TICKS = 4
MOST = 1e12
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """What one run had in training, or its averaged weights on the validation images; `end`: the
    last value."""

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


def charts(title: str, runs: Sequence[tuple[int, Path]]) -> dict[str, Chart]:
    """Of those of the runs, (seed, folder), that have a log: what was minimised, and of a VAE by
    how much q(z|x) then differs from p(z)."""
    logs = [(seed, read_log(folder / LOG)) for seed, folder in runs if (folder / LOG).is_file()]
    losses = [(seed, key == "validation", log[key]) for seed, log in logs for key in LOSSES]
    rates = [(seed, True, rate(log)) for seed, log in logs]
    found = {title: chart(losses), f"{title}: KL(q(z|x)||p(z))": chart(rates)}
    return {name: drawn for name, drawn in found.items() if drawn is not None}


def rate(log: dict[str, Points]) -> Points:
    """E[log q(z|x) - log p(z)] of the validation images, a VAE's KL in nats; of others, nothing."""
    log_pz = dict(log["validation log_pz"])
    return [(t, log_qz - log_pz[t]) for t, log_qz in log["validation log_qz"] if t in log_pz]


def chart(logs: Sequence[tuple[int, bool, Points]]) -> Chart | None:
    """A line for each (seed, whether it is of validation images, points)."""
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
        Line(seed, validation, placed(p), number(p[-1][1], decimals_for([p[-1][1]])))
        for seed, validation, p in logs
    ]
    across = [x for x in ticks(0, last) if x == int(x)]
    up = ticks(low, high)
    decimals = max(0, -math.floor(math.log10(up[1] - up[0])))
    return Chart(
        lines,
        [(x / last * WIDTH, count(int(x))) for x in across],
        [((high - y) / (high - low) * HEIGHT, number(y, decimals)) for y in up],
    )


def read_log(path: Path) -> dict[str, Points]:
    """(step, value) of each key of metrics.jsonl that is drawn. Its last line may be torn.

    Raises:
        UserError: another line is not what a run logs.
    """
    try:
        *lines, last = path.read_text(encoding="utf-8").splitlines() or [""]
        rows = [json.loads(line) for line in lines]
        with suppress(ValueError):
            rows.append(json.loads(last))
        found = {
            key: [(float(row["step"]), float(row[key])) for row in rows if key in row]
            for key in (*LOSSES, *RATE)
        }
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or delete it") from None
    return {key: finite(points) for key, points in found.items()}


def finite(points: Points) -> Points:
    """Those that have a place on an axis."""
    return [(x, y) for x, y in points if 0 < x < MOST and abs(y) < MOST]


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers between the two, and two at least."""
    found = MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(v) for v in found if low <= v <= high]
