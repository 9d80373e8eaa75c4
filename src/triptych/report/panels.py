"""Every score of a study: for each metric a panel for each protocol, with a row for each model."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from triptych.report.claims import told_apart
from triptych.report.glossary import Meaning, meaning
from triptych.report.load import Difference, Study, Summary
from triptych.report.tables import DASH, best_iwae
from triptych.report.wording import (
    count,
    counted,
    dataset_name,
    decimals_for,
    interval,
    labels,
    number,
    split_and_n,
    spread,
    way_of_sampling,
)
from triptych.study.results import LEVELS, PER_SEED, free_keys, sampling_keys

SAID = {"dataset", "split", "n", "images", "view", "features", "feature_hash"}
WIDE, WIDEST = 20.0, 1e12  # largest over least of the positive numbers on a logarithmic axis
ROOM = 0.06  # left free at either end of an axis


@dataclass(frozen=True)
class Row:
    """A model's score, as text and as places on the panel's axis in per cent; what is not finite
    has none."""

    model: str
    title: str
    value: str
    interval: str
    error: str
    of_images: str
    level: str
    how: str
    mean_at: float | None
    dots: list[tuple[float, str]]
    band: tuple[float, float] | None
    level_at: float | None


@dataclass(frozen=True)
class Cell:
    """A paired difference, row minus column; `clear` where the report would claim it."""

    text: str
    interval: str
    title: str
    clear: bool


@dataclass(frozen=True)
class Panel:
    """`protocol` is what all rows share; `level` heads the column of null levels or real images;
    `ends` of the axis, where there is more on it than one number, and whether it is logarithmic."""

    protocol: str
    level: str
    ends: tuple[str, str] | None
    log: bool
    rows: list[Row]
    pairs: list[list[Cell | None]]


@dataclass(frozen=True)
class Metric:
    """`main`: one of those that a reader looks for first."""

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
    scored = []
    for name, groups in found.items():
        unit = next(iter(groups.values()))[0].unit
        panels = [_panel(study, titles, scores) for scores in groups.values()]
        scored.append(Metric(name, unit, meaning(name), panels, name in main))
    return sorted(scored, key=lambda metric: not metric.main)


def _key(score: Summary) -> str:
    """What scores of one panel share."""
    free = free_keys(score.metric, score.protocol)
    return repr(sorted((k, repr(v)) for k, v in score.protocol.items() if k not in free))


def _panel(study: Study, titles: dict[str, str], scores: list[Summary]) -> Panel:
    first = scores[0].protocol
    shared = {
        k: v
        for k, v in first.items()
        if k not in PER_SEED and all(s.protocol.get(k) == v for s in scores)
    }
    level = next((key for key in LEVELS if any(key in s.protocol for s in scores)), "")
    drawn = {v for s in scores for v in _drawn(s, level) if math.isfinite(v)}
    axis = Axis.of(drawn or {0.0})
    decimals = _decimals(scores, [float(s.protocol[level]) for s in scores if level in s.protocol])
    return Panel(
        protocol=_protocol(shared),
        level=LEVELS.get(level, ""),
        ends=axis.ends() if len(drawn) > 1 else None,
        log=axis.log,
        rows=[_row(titles, s, shared, level, axis, decimals) for s in scores],
        pairs=_pairs(study, scores, titles),
    )


def _decimals(scores: Sequence[Summary | Difference], levels: Sequence[float] = ()) -> int:
    """Those that show the least deviation over runs with two digits; of single runs, the least
    score or level with four."""
    small = [s.std for s in scores if s.std]
    small = small or [v / 100 for v in (*(s.mean for s in scores), *levels)]
    return decimals_for(small, most=6, least=0)


def _drawn(score: Summary, level: str) -> list[float]:
    """All that has a place on the axis."""
    beside = score.protocol.get(level)
    return [*score.values, score.mean, *([] if beside is None else [float(beside)])]


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

    def at(self, value: float) -> float | None:
        """Between 0 and 100; what lies beyond an end is at that end."""
        if not math.isfinite(value):
            return None
        if self.log:
            value = math.log(value) if value > 0 else self.low
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def ends(self) -> tuple[str, str]:
        """What stands at either end."""
        if self.log:
            low, high = math.exp(self.low), math.exp(self.high)
            return number(low, decimals_for([low], 6, 0)), number(high, decimals_for([high], 6, 0))
        decimals = decimals_for([self.high - self.low], 6, 0)
        return number(self.low, decimals), number(self.high, decimals)


def _row(
    titles: dict[str, str],
    score: Summary,
    shared: dict[str, Any],
    level: str,
    axis: Axis,
    decimals: int,
) -> Row:
    bounds, beside = score.interval95, score.protocol.get(level)
    own = {k: v for k, v in score.protocol.items() if k not in shared and k not in PER_SEED}
    seeds = zip(score.seeds, score.values, strict=True)
    dots = [(axis.at(v), f"seed {s}: {number(v, decimals + 1)}") for s, v in seeds]
    ends = [axis.at(v) for v in bounds or ()]
    band = [place for place in ends if place is not None]
    return Row(
        model=score.model,
        title=titles[score.model],
        value=spread(score.mean, score.std, decimals),
        interval=DASH if bounds is None else interval(bounds, decimals),
        error=_error(score.mc_std, DASH),
        of_images=_error(score.image_std, ""),
        level="" if beside is None else number(float(beside), decimals),
        how=_protocol(own),
        mean_at=axis.at(score.mean),
        dots=[(place, title) for place, title in dots if place is not None],
        band=(band[0], round(band[1] - band[0], 2)) if len(band) == 2 else None,
        level_at=None if beside is None else axis.at(float(beside)),
    )


def _error(value: float | None, without: str) -> str:
    return without if value is None else number(value, decimals_for([value], most=6))


def _protocol(entries: dict[str, Any]) -> str:
    """A protocol, or a part of one, in words."""
    parts = [dataset_name(str(entries["dataset"]))] if "dataset" in entries else []
    sampling = sampling_keys(entries)
    way = way_of_sampling(entries) if sampling else ""
    parts += [text for text in (split_and_n(entries), way) if text]
    if "features" in entries:
        digest = str(entries.get("feature_hash", ""))[:8]
        parts.append(f"features {entries['features']}" + (f" ({digest})" if digest else ""))
    said = SAID | (set(sampling) - {"clip"} if way else set())
    for key, value in entries.items():
        if key not in said:
            parts.append(f"{key} {count(value) if isinstance(value, int) else value}")
    return ", ".join(parts)


def _pairs(study: Study, scores: list[Summary], titles: dict[str, str]) -> list[list[Cell | None]]:
    """Each model minus each other; nothing where runs were not paired, or some were scored in
    several ways: a difference does not say of which it is."""
    metric, names = scores[0].metric, [s.model for s in scores]
    everywhere = [s for s in study.scores if s.metric == metric and s.model in names]
    if len(everywhere) > len(set(names)):
        return []
    found = [[None if a == b else study.difference(metric, a, b) for b in names] for a in names]
    paired = [d for row in found for d in row if d is not None]
    decimals = _decimals(paired if any(d.std for d in paired) else scores)
    told = told_apart(study, metric)
    cells = [[d and _cell(d, titles, decimals, {d.a, d.b} in told) for d in row] for row in found]
    return cells if paired else []


def _cell(d: Difference, titles: dict[str, str], decimals: int, clear: bool) -> Cell:
    return Cell(
        text=number(d.mean, decimals),
        interval=interval(d.interval95, decimals) if d.interval95 else "",
        title=f"{titles[d.a]} minus {titles[d.b]}, {counted(d.n_seeds, 'paired run')}",
        clear=clear,
    )
