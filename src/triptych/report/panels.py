"""Every score of a study: for each metric a panel for each protocol, with a row for each model."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from triptych.report.glossary import Meaning, meaning
from triptych.report.load import Study, Summary
from triptych.report.tables import DASH, FREE_KEYS, best_iwae
from triptych.report.wording import (
    count,
    decimals_for,
    interval,
    labels,
    number,
    split_and_n,
    spread,
    way_of_sampling,
)
from triptych.study.results import PER_SEED, SAMPLING

LEVELS = {"null95": "95% null level", "floor": "real images", "real": "real images"}
SAID = {"dataset", "split", "n", "view", "features", "feature_hash"}
WIDE, WIDEST = 20.0, 1e12  # largest over least of the positive numbers on a logarithmic axis
ROOM = 0.06  # left free at either end of an axis


@dataclass(frozen=True)
class Row:
    """A model's score, as text and as places on the panel's axis in per cent."""

    model: str
    title: str
    value: str
    interval: str
    error: str
    level: str
    how: str
    mean_at: float
    dots: list[tuple[float, str]]
    band: tuple[float, float] | None
    level_at: float | None


@dataclass(frozen=True)
class Cell:
    """A paired difference, row less column; `clear` where its interval excludes zero."""

    model: str
    text: str
    title: str
    clear: bool


@dataclass(frozen=True)
class Panel:
    """`protocol` is what all rows share; `level` heads the column of null levels or real images;
    `ends` of the axis, where there is more on it than one number."""

    protocol: str
    level: str
    ends: tuple[str, str] | None
    rows: list[Row]
    pairs: list[list[Cell | None]]


@dataclass(frozen=True)
class Metric:
    """`main`: one of those that the report's tables have."""

    name: str
    unit: str
    meaning: Meaning
    panels: list[Panel]
    main: bool


def metrics(study: Study) -> list[Metric]:
    """All that were scored, the main ones first."""
    titles = dict(zip([r.name for r in study.recipes], labels(study, study.recipes), strict=True))
    found: dict[str, dict[str, list[Summary]]] = {}
    for score in study.scores:
        if score.model in titles:
            found.setdefault(score.metric, {}).setdefault(_key(score), []).append(score)
    main = {"elbo", best_iwae(study, study.recipes), "kl-aggregate", "bpd", "fid"}
    rows = []
    for name, groups in found.items():
        unit = next(iter(groups.values()))[0].unit
        panels = [_panel(study, titles, scores) for scores in groups.values()]
        rows.append(Metric(name, unit, meaning(name), panels, name in main))
    return sorted(rows, key=lambda metric: not metric.main)


def _key(score: Summary) -> str:
    """What scores of one panel share."""
    free = FREE_KEYS.get(score.metric, set()).union(PER_SEED, SAMPLING)
    return repr(sorted((k, repr(v)) for k, v in score.protocol.items() if k not in free))


def _panel(study: Study, titles: dict[str, str], scores: list[Summary]) -> Panel:
    first = scores[0]
    shared = {
        k: v
        for k, v in first.protocol.items()
        if k not in PER_SEED and all(s.protocol.get(k) == v for s in scores)
    }
    level = next((key for key in LEVELS if key in first.protocol), "")
    drawn = {v for s in scores for v in _drawn(s, level)}
    axis, decimals = Axis.of(drawn), _decimals(scores)
    return Panel(
        _protocol(shared),
        LEVELS.get(level, ""),
        axis.ends(max(decimals - 1, 0)) if len(drawn) > 1 else None,
        [_row(titles, s, shared, level, axis, decimals) for s in scores],
        _pairs(study, scores, titles, decimals),
    )


def _decimals(scores: list[Summary]) -> int:
    """Those that show the least deviation over runs with two digits; of single runs, the least
    score with four."""
    small = [s.std for s in scores if s.std] or [s.mean / 100 for s in scores]
    return decimals_for(small, least=0)


def _drawn(score: Summary, level: str) -> list[float]:
    return [*score.values, score.mean, *([float(score.protocol[level])] if level else [])]


@dataclass(frozen=True)
class Axis:
    """From numbers to per cent of a line's length."""

    low: float
    high: float
    log: bool

    @staticmethod
    def of(values: Collection[float]) -> "Axis":
        """One on which all of them have a place."""
        low, high = min(values), max(values)
        log = low > 0 and WIDE < high / low < WIDEST
        if log:
            low, high = math.log(low), math.log(high)
        margin = ROOM * (high - low) or 0.5 * abs(high) or 0.5
        return Axis(low - margin, high + margin, log)

    def at(self, value: float) -> float:
        """Between 0 and 100; what lies beyond an end is at that end."""
        if self.log:
            value = math.log(value) if value > 0 else self.low
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def ends(self, decimals: int) -> tuple[str, str]:
        """What stands at either end."""
        low, high = (math.exp(v) if self.log else v for v in (self.low, self.high))
        return number(low, decimals), number(high, decimals)


def _row(
    titles: dict[str, str],
    score: Summary,
    shared: dict[str, Any],
    level: str,
    axis: Axis,
    decimals: int,
) -> Row:
    bounds = score.interval95
    beside = float(score.protocol[level]) if level in score.protocol else None
    own = {k: v for k, v in score.protocol.items() if k not in shared and k not in PER_SEED}
    seeds = zip(score.seeds, score.values, strict=True)
    band = None if bounds is None else (axis.at(bounds[0]), axis.at(bounds[1]))
    return Row(
        model=score.model,
        title=titles[score.model],
        value=spread(score.mean, score.std, decimals),
        interval=DASH if bounds is None else interval(bounds, decimals),
        error=DASH if score.mc_std is None else number(score.mc_std, decimals_for([score.mc_std])),
        level="" if beside is None else number(beside, decimals),
        how=_protocol(own),
        mean_at=axis.at(score.mean),
        dots=[(axis.at(v), f"seed {s}: {number(v, decimals + 1)}") for s, v in seeds],
        band=None if band is None else (band[0], round(band[1] - band[0], 2)),
        level_at=None if beside is None else axis.at(beside),
    )


def _protocol(entries: dict[str, Any]) -> str:
    """A protocol, or a part of one, in words."""
    parts = [str(entries["dataset"])] if "dataset" in entries else []
    parts += [text for text in (split_and_n(entries), way_of_sampling(entries)) if text]
    if "features" in entries:
        digest = str(entries.get("feature_hash", ""))[:8]
        parts.append(f"features {entries['features']}" + (f" ({digest})" if digest else ""))
    for key, value in entries.items():
        if key in SAID or (key in SAMPLING and way_of_sampling(entries) and key != "evaluations"):
            continue
        parts.append(f"{key} {count(value) if isinstance(value, int) else value}")
    return ", ".join(parts)


def _pairs(
    study: Study, scores: list[Summary], titles: dict[str, str], decimals: int
) -> list[list[Cell | None]]:
    """Each model less each other; nothing where runs were not paired, or some were scored under
    other protocols too: a difference does not say of which it is."""
    metric, names = scores[0].metric, [s.model for s in scores]
    everywhere = [s for s in study.scores if s.metric == metric and s.model in names]
    if len(everywhere) > len(scores):
        return []
    rows = [[_cell(study, metric, a, b, titles, decimals) for b in names] for a in names]
    return rows if any(cell for row in rows for cell in row) else []


def _cell(
    study: Study, metric: str, a: str, b: str, titles: dict[str, str], decimals: int
) -> Cell | None:
    found = None if a == b else study.difference(metric, a, b)
    if found is None:
        return None
    title = f"{titles[a]} less {titles[b]}, {found.n_seeds} paired"
    clear = False
    if found.interval95 is not None:
        low, high = found.interval95
        clear = low > 0 or high < 0
        title += f", 95% interval {interval(found.interval95, decimals)}"
    return Cell(b, number(found.mean, decimals), title, clear)
