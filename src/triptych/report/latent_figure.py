"""The prior beside the aggregate posterior: one panel per model, all on the same axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from triptych.report.canvas import (
    LINE_HEIGHT,
    STYLE,
    TEXT_WIDTH,
    axes_at,
    blank,
    line_count,
    wrapped,
    write,
)
from triptych.report.load import Latent, Recipe, Study, read_latent
from triptych.report.wording import label

# Ten hues that stay apart under the common colour deficiencies and differ in lightness; the
# digits written on the clouds carry the meaning where hue cannot.
CLASS_COLOURS = (
    "#332288",
    "#DDCC77",
    "#117733",
    "#CC6677",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#555555",
)
# Room in cm for the ticks and labels left of and below the panels.
LEFT, RIGHT, BELOW = 1.25, 0.1, 1.05
MASSES = (0.95, 0.8, 0.5)
MOST_POINTS = 3000
MOST_IN_ROW = 5
MOST_PRIOR_SAMPLES = 150


@dataclass(frozen=True)
class Panels:
    """Where the panels stand, in cm: titles, lower left corners, side, and the figure's height."""

    titles: list[str]
    corners: list[tuple[float, float]]
    side: float
    height: float


def place_panels(study: Study, panel: float) -> Panels | None:
    """Rows of panels of at most `panel` cm; None where no model has a latent space."""
    pairs = _pairs(study)
    if not pairs:
        return None
    rows = math.ceil(len(pairs) / MOST_IN_ROW)
    n, free = math.ceil(len(pairs) / rows), TEXT_WIDTH - LEFT - RIGHT
    gap = 0.75 if _own_axes(pairs) else 0.35
    side = min(panel, (free - (n - 1) * gap) / n)
    # Panels that do not fill the width stand apart, but not so far that they part company.
    step = min((free - side) / (n - 1), side + 1.2) if n > 1 else 0.0
    start = LEFT + (free - step * (n - 1) - side) / 2
    # A title may reach over its panel's sides, as far as its neighbours and the page let it.
    wide = max(side, min(step - 0.2, side + 2 * (start - LEFT)))
    titles = [wrapped(label(study, recipe), wide) for recipe, _ in pairs]
    row = BELOW + side + 0.12 + LINE_HEIGHT * line_count(titles)
    corners = [(start + i % n * step, (rows - 1 - i // n) * row + BELOW) for i in range(len(pairs))]
    return Panels(titles, corners, side, rows * row)


def prior_posterior(study: Study, panel: float = 4.7) -> Path | None:
    """One panel per recipe of part A, all on the same axes; `panel` is the largest side in cm.

    Shaded regions hold 50, 80 and 95% of the prior's mass in the plane shown.
    """
    panels, pairs = place_panels(study, panel), _pairs(study)
    if panels is None:
        return None
    centre, reach = _frame([latent for _, latent in pairs])
    with rc_context(STYLE):
        figure, axes = _empty_panels(panels)
        for ax, (_, latent) in zip(axes, pairs, strict=True):
            ax.set_xlim(centre[0] - reach, centre[0] + reach)
            ax.set_ylim(centre[1] - reach, centre[1] + reach)
            _draw_prior(ax, latent)
            _draw_posterior(ax, latent)
            _label_axes(ax, latent)
        if not _own_axes(pairs):
            for ax, corner in zip(axes, panels.corners, strict=True):
                if corner[0] > panels.corners[0][0]:
                    ax.set_ylabel("")
        return write(figure, study.folder / "figures", "prior-posterior")


def _pairs(study: Study) -> list[tuple[Recipe, Latent]]:
    return [(r, latent) for r in study.part("A") if (latent := read_latent(study, r))]


def _frame(latents: Sequence[Latent]) -> tuple[np.ndarray, float]:
    """Centre and half side of the one square that shows nearly all of every cloud and prior."""
    bounds = []
    for latent in latents:
        for cloud in (latent.posterior, latent.prior):
            if len(cloud):
                bounds.append(np.quantile(cloud, [0.004, 0.996], axis=0))
    low, high = np.min(bounds, axis=(0, 1)), np.max(bounds, axis=(0, 1))
    return (low + high) / 2, float((high - low).max() / 2 * 1.04)


def _own_axes(pairs: Sequence[tuple[Recipe, Latent]]) -> bool:
    # Principal components are each model's own, so each panel names its own.
    return any(latent.projected for _, latent in pairs)


def _empty_panels(panels: Panels) -> tuple[Figure, list[Axes]]:
    figure = blank(panels.height)
    axes = []
    for title, corner in zip(panels.titles, panels.corners, strict=True):
        ax = axes_at(figure, (*corner, panels.side, panels.side))
        ax.set_title(title, pad=4, linespacing=1.1, parse_math=False)
        ax.locator_params(nbins=5 if panels.side > 3 else 3)
        ax.tick_params(labelleft=corner[0] == panels.corners[0][0])
        axes.append(ax)
    return figure, axes


def _label_axes(ax: Axes, latent: Latent) -> None:
    names = ("z₁", "z₂")
    if latent.projected:
        names = tuple(f"PC {i} ({100 * v:.0f}%)" for i, v in enumerate(latent.explained, start=1))
    ax.set_xlabel(names[0], labelpad=1)
    ax.set_ylabel(names[1], labelpad=1)


def _draw_prior(ax: Axes, latent: Latent) -> None:
    # Only the part inside the frame: a vector line keeps its whole length in the file, clipped
    # or not, and the page's margins are measured on it.
    inside_x = _inside(latent.grid_x, *ax.get_xlim())
    inside_y = _inside(latent.grid_y, *ax.get_ylim())
    density = latent.density[np.ix_(inside_y, inside_x)]
    levels = _mass_levels(latent)
    if density.size and min(density.shape) > 1 and len(levels):
        x, y = latent.grid_x[inside_x], latent.grid_y[inside_y]
        ax.contourf(x, y, density, [*levels, np.inf], colors=["#EFEFEF", "#DEDEDE", "#CCCCCC"])
        ax.contour(x, y, density, levels, colors="#606060", linewidths=0.6)


def _inside(grid: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.flatnonzero((grid >= low) & (grid <= high))


def _mass_levels(latent: Latent) -> list[float]:
    """Densities whose upper sets hold the masses of MASSES, strictly increasing."""
    flat = np.sort(latent.density.ravel())[::-1].astype(np.float64)
    cell = np.ptp(latent.grid_x) * np.ptp(latent.grid_y) / max(flat.size, 1)
    held = np.cumsum(flat) * cell
    held /= max(held[-1], 1.0)
    levels = [float(flat[np.searchsorted(held, mass)]) for mass in MASSES if mass <= held[-1]]
    return sorted({level for level in levels if level > 0})


def _draw_posterior(ax: Axes, latent: Latent) -> None:
    shown = np.linspace(0, len(latent.posterior) - 1, min(len(latent.posterior), MOST_POINTS))
    index = shown.astype(int)
    points, labels = latent.posterior[index], latent.labels[index]
    colours = [CLASS_COLOURS[int(c) % len(CLASS_COLOURS)] for c in labels]
    size = 2.0 if len(index) > 1000 else 5.0
    ax.scatter(*points.T, s=size, c=colours, linewidths=0, alpha=0.75, rasterized=True)
    if latent.projected:
        few = latent.prior[:MOST_PRIOR_SAMPLES]
        ax.scatter(
            *few.T, s=7, facecolors="none", edgecolors="#404040", linewidths=0.4, rasterized=True
        )
    _write_digits(ax, latent)


def _write_digits(ax: Axes, latent: Latent) -> None:
    classes = np.unique(latent.labels)
    centres = np.array([np.median(latent.posterior[latent.labels == c], axis=0) for c in classes])
    low, high = np.array(ax.get_xlim()), np.array(ax.get_ylim())
    origin, reach = np.array([low[0], high[0]]), low[1] - low[0]
    side = ax.get_position().width * TEXT_WIDTH
    places = _spread_apart((centres - origin) / reach * side, 0.42, side) / side * reach + origin
    for c, centre, (x, y) in zip(classes, centres, places, strict=True):
        colour = CLASS_COLOURS[int(c) % len(CLASS_COLOURS)]
        box = {"boxstyle": "circle,pad=0.05", "fc": "white", "ec": colour, "lw": 0.9}
        # A line leads a digit that had to stand aside back to where its class is.
        ax.plot([centre[0], x], [centre[1], y], color=colour, lw=0.9, scalex=False, scaley=False)
        ax.text(x, y, str(c), ha="center", va="center", fontweight="bold", bbox=box)


def _spread_apart(points: np.ndarray, least: float, side: float) -> np.ndarray:
    """Points moved as little as needed to stand `least` cm apart, inside a square of `side` cm."""
    moved = points.astype(np.float64)
    margin = least / 2 + 0.03
    for _ in range(200):
        delta = moved[:, None] - moved[None]
        # Coincident points have no direction to part in; their order gives them one.
        turn = np.arange(len(moved))[:, None] - np.arange(len(moved))[None]
        delta = delta + 1e-6 * turn[..., None]
        distance = np.linalg.norm(delta, axis=-1) + np.eye(len(moved))
        push = np.clip(least - distance, 0, None) * (1 - np.eye(len(moved)))
        step = (delta / distance[..., None] * push[..., None]).sum(axis=1) / 2
        moved = np.clip(moved + step, margin, side - margin)
        if not push.any():
            break
    return moved
