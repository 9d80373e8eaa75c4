"""Scores as curves: bounds and latent dimensions of each prior, FID of each model against N.

A public function that takes a study draws one figure into its folder and returns the PDF, or None
where the study has nothing to draw.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from triptych.evaluate.stats import summarise
from triptych.report.canvas import (
    CM_PER_INCH,
    FONT_SIZE,
    LINE_HEIGHT,
    STYLE,
    axes_at,
    blank,
    line_count,
    wrapped,
    write,
)
from triptych.report.latent_panel import CLASS_COLOURS
from triptych.report.load import Study, Summary
from triptych.report.runs import read_arrays
from triptych.report.tables import best_iwae
from triptych.report.wording import MINUS, NARROW_SPACE, count

SMALLEST_TERM = 1e-6  # of the largest, that is drawn: L_0 may be nil
ROOMY = 1000  # largest over smallest of a logarithmic axis with room for three numbers a decade
# Colour alone does not survive grey printing; a marker does.
MARKERS = "osv^D<>P*X"
LINE_COLOURS = [CLASS_COLOURS[i] for i in (0, 3, 2, 8, 6, 7, 5, 9, 4, 1)]  # the pale ones last
PLACE, HEIGHT = (1.9, 1.25, 8.6, 7.2), 8.8  # in cm, of the axes, and of the figure
LEGEND_WIDTH = 4.8  # cm, of its words, right of the axes
LEAST = 0.1  # cm below a legend
BOUNDS = (("o", "black", 0.12), ("s", "#888888", -0.12))  # marker, colour, and place above its row


def likelihood(study: Study) -> Path | None:
    """Bounds on the test log-likelihood with their 95% intervals over runs, one row per prior."""
    recipes = study.part("A")
    iwae = best_iwae(study, recipes)
    metrics = [m for m in ("elbo", iwae) if m and any(study.score(r.name, m) for r in recipes)]
    if not metrics:
        return None
    bounds = [[study.score(r.name, metric) for r in recipes] for metric in metrics]
    repeated = any(s is not None and s.interval95 for scores in bounds for s in scores)
    with rc_context(STYLE):
        titles = [wrapped(r.title, 5.0) for r in recipes]
        height = 0.3 + max(0.8, LINE_HEIGHT * line_count(titles) + 0.2) * len(recipes)
        figure = blank(height + 2.1)
        ax = axes_at(figure, (5.5, 1.3, 10.8, height))
        for scores, look in zip(bounds, BOUNDS, strict=False):
            _draw_intervals(ax, scores, *look)
        ax.set_yticks(range(len(recipes)), titles)
        ax.set_ylim(len(recipes) - 0.5, -0.5)
        ax.set_xlabel("nats (mean and 95% interval over runs)" if repeated else "nats (one run)")
        ax.locator_params(axis="x", nbins=6)
        ax.xaxis.set_major_formatter(tick)
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(metrics)}
        ax.legend(frameon=False, fontsize=FONT_SIZE, borderaxespad=0.2, **place)
        return write(figure, study.folder / "figures", "likelihood")


def _on_images(found: Sequence[Summary | None]) -> str:
    """The metric, and on how many images: a bound on more of them is not the looser for it."""
    score = next(s for s in found if s is not None)
    n, few = score.protocol.get("n"), score.protocol.get("importance_images")
    of = f"gain on {count(int(few))} images" if few else f"{count(int(n))} images" if n else ""
    return score.metric.upper() + (f", {of}" if of else "")


def _draw_intervals(
    ax: Axes, scores: Sequence[Summary | None], marker: str, colour: str, above: float
) -> None:
    """One bound: a marker and an interval for each model that has it, `above` the model's row."""
    found = [(row - above, score) for row, score in enumerate(scores) if score is not None]
    means, rows = [score.mean for _, score in found], [row for row, _ in found]
    ax.plot(means, rows, marker, color=colour, ms=4, label=_on_images(scores))
    for row, score in found:
        if score.interval95 is not None:
            ax.plot(score.interval95, [row, row], "-", color=colour, lw=1)


def growth(study: Study) -> Path | None:
    """IWAE-k against k, the mean over runs with its 95% interval: what more samples would bring."""
    lines = {}
    for recipe in study.part("A"):
        runs = read_arrays(study, recipe, "growth.npz", "k", "iwae")
        same = [run["iwae"] for run in runs if np.array_equal(run["k"], runs[0]["k"])]
        if same and len(runs[0]["k"]) > 1:
            lines[recipe.title] = (runs[0]["k"], np.stack(same))
    if not lines:
        return None
    with rc_context(STYLE):
        figure, ax = empty_plot()
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(tick)
        ax.xaxis.set_minor_formatter(NullFormatter())
        _draw_lines(ax, lines)
        ax.set_xlabel("k")
        ax.set_ylabel("IWAE-k in nats")
        return write(figure, study.folder / "figures", "iwae-growth")


def dimensions(study: Study) -> Path | None:
    """The divergence of each latent dimension from the prior's marginal, largest first."""
    lines = {}
    for recipe in study.part("A"):
        runs = read_arrays(study, recipe, "divergence.npz", "nats")
        if runs:
            falling = np.stack([np.sort(run["nats"])[::-1] for run in runs])
            lines[recipe.title] = (np.arange(1, falling.shape[1] + 1), falling)
    if not lines:
        return None
    with rc_context(STYLE):
        figure, ax = empty_plot()
        _draw_lines(ax, lines, least=0.0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("latent dimension, largest first")
        ax.set_ylabel("mean KL to the prior's marginal in nats")
        return write(figure, study.folder / "figures", "dimensions")


def frechet(study: Study) -> Path | None:
    """FID against the number of samples, beside that of real images: none compares across N."""
    lines = runs_of_part_b(study, "fid-growth.npz", "n", "fid", "floor")
    if not lines:
        return None
    with rc_context(STYLE):
        figure, ax = empty_plot()
        ax.set(xscale="log", yscale="log", xlabel="N", ylabel="FID of N samples")
        for i, (name, runs) in enumerate(lines.items()):
            _draw_mean(ax, i, name, runs[0]["n"], [run["fid"] for run in runs])
        real = next(iter(lines.values()))[0]
        if np.isfinite(real["floor"]).any():  # of as many images as there are samples
            ax.plot(real["n"], real["floor"], "--", color="black", lw=1, label="real images")
        log_ticks(ax)
        legend_beside(ax)
        return write(figure, study.folder / "figures", "fid-growth")


def terms(study: Study) -> Path | None:
    """The terms L_t of each chain's bound (Ho et al. 2020, eq. 5) in bits/dim against t + 1: which
    are large. L_T, the divergence from the prior at the chain's end, is a number in the legend."""
    lines = runs_of_part_b(study, "terms.npz", "t", "bits", "prior")
    if not lines:
        return None
    with rc_context(STYLE):
        figure, ax = empty_plot()
        ax.set(xscale="log", yscale="log", xlabel="t + 1", ylabel="Lₜ in bits/dim")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(tick)
            axis.set_minor_formatter(NullFormatter())
        for i, (name, runs) in enumerate(lines.items()):
            last = float(np.mean([run["prior"] for run in runs]))
            bits = [worth_drawing(run["bits"]) for run in runs]
            _draw_mean(ax, i, f"{name} (L_T: {last:.1g})", runs[0]["t"] + 1, bits)
        legend_beside(ax)
        return write(figure, study.folder / "figures", "bound-terms")


def worth_drawing(bits: np.ndarray) -> np.ndarray:
    """The terms but for those that are next to nothing."""
    return np.where(bits < SMALLEST_TERM * bits.max(), np.nan, bits)


def runs_of_part_b(
    study: Study, file: str, *names: str, optional: tuple[str, ...] = ()
) -> dict[str, list[dict[str, Any]]]:
    """The arrays of each model of part B that has them, by its title."""
    found = (
        (r.title, read_arrays(study, r, file, *names, optional=optional)) for r in study.part("B")
    )
    return {name: runs for name, runs in found if runs}


def _draw_mean(ax: Axes, i: int, name: str, x: np.ndarray, runs: Sequence[np.ndarray]) -> None:
    """The i-th line: the mean over the runs, each [points]."""
    ax.plot(x, np.mean(runs, 0), label=in_legend(name), **style(i))


def in_legend(name: str) -> str:
    """The name in lines that the room beside the axes holds."""
    return wrapped(name, LEGEND_WIDTH)


def empty_plot() -> tuple[Figure, Axes]:
    """A figure and its axes, which leave room for a legend on their right."""
    figure = blank(HEIGHT)
    return figure, axes_at(figure, PLACE)


def legend_beside(ax: Axes, *handles: Any, **how: Any) -> None:
    """The legend right of the axes; where it would reach below the figure, the figure grows."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0)}
    legend = ax.legend(*handles, frameon=False, borderaxespad=0.0, **place, **how)
    figure = ax.figure
    assert isinstance(figure, Figure)
    more = LEAST - legend.get_window_extent().y0 / figure.dpi * CM_PER_INCH
    if more > 0:
        (width, height), at = figure.get_size_inches(), ax.get_position()
        higher = height + more / CM_PER_INCH
        figure.set_size_inches(width, higher)
        bottom = (at.y0 * height + more / CM_PER_INCH) / higher
        ax.set_position((at.x0, bottom, at.width, at.height * height / higher))


def tick(value: float, _: float = 0) -> str:
    """A number on an axis, its thousands set apart as in the text."""
    return f"{value:,g}".replace(",", NARROW_SPACE).replace("-", MINUS)


def log_ticks(ax: Axes) -> None:
    """Numbers at 1, 2 and 5 of each decade, or where there are too many for that, at 1."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        subs = (1, 2, 5) if high < ROOMY * low else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axis.set_major_formatter(tick)
        axis.set_minor_formatter(NullFormatter())


def style(i: int) -> dict[str, Any]:
    """How the i-th model's line is drawn."""
    marker, colour = MARKERS[i % len(MARKERS)], LINE_COLOURS[i % len(LINE_COLOURS)]
    return {"marker": marker, "ms": 3.5, "lw": 1.0, "color": colour}


def _draw_lines(
    ax: Axes, lines: dict[str, tuple[np.ndarray, np.ndarray]], least: float = -np.inf
) -> None:
    """The mean of each line and its band. `lines`: of each name, x of [points] and y of [runs,
    points]; `least`: what no y is below, and so no band. The legend is in the order of the ends."""
    means = np.concatenate([rows.mean(0) for _, rows in lines.values()])
    bands = {name: _band(rows) for name, (_, rows) in lines.items() if len(rows) > 2}
    low, high = frame(means, np.concatenate([means, *(band.ravel() for band in bands.values())]))
    low = max(low, min(least, float(means.min())) - 0.03 * (high - low))
    ax.set_ylim(low, high)
    for i, (name, (x, rows)) in enumerate(lines.items()):
        ax.plot(x, rows.mean(0), label=in_legend(name), **style(i))
        if name in bands:
            band = np.clip(bands[name], low, high)
            ax.fill_between(x, *band, color=style(i)["color"], alpha=0.2, lw=0)
    last = [rows.mean(0)[-1] for _, rows in lines.values()]
    handles, names = ax.get_legend_handles_labels()
    order = np.argsort(last)[::-1]
    ordered = [handles[i] for i in order], [names[i] for i in order]
    title = "mean, 95% interval over runs" if bands else None
    if any(band.min() < low or band.max() > high for band in bands.values()):
        title = f"{title}\n(cut where it leaves the frame)"
    legend_beside(ax, *ordered, title=title)


def _band(rows: np.ndarray) -> np.ndarray:
    """The ends of the 95% interval at each point, [2, points]."""
    return np.array([summarise(column.tolist()).interval95 for column in rows.T]).T


def frame(means: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """The ends of an axis for all that is drawn, means and bands. Bands of few runs may be far
    wider than the means are apart: beyond the means the axis has no more than their spread."""
    spread = max(float(np.ptp(means)), 1e-9)
    low = max(float(drawn.min()), float(means.min()) - spread)
    high = min(float(drawn.max()), float(means.max()) + spread)
    margin = 0.15 * spread
    return low - margin, high + margin
