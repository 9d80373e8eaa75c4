"""The prior beside the aggregate posterior: one panel per model, all on the same axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    text_at,
    wrapped,
    write,
)
from triptych.report.latent_panel import (
    draw_chain,
    draw_posterior,
    draw_posterior_regions,
    draw_prior,
    draw_prior_samples,
    write_digits,
)
from triptych.report.load import Recipe, Study
from triptych.report.runs import Latent, read_latent

# Room in cm for the ticks and labels left of and below the panels.
LEFT, RIGHT, BELOW, LEGEND = 1.25, 0.1, 1.05, 0.55
MOST_IN_ROW, FEWEST_IN_ROW = 5, 3
APART = 1.2  # cm, beside the room for ticks and labels, between panels


@dataclass(frozen=True)
class Panels:
    """Where the panels stand, in cm: titles, lower left corners, side, and the figure's height."""

    titles: list[str]
    corners: list[tuple[float, float]]
    side: float
    height: float


def place_panels(study: Study, panel: float) -> Panels | None:
    """Rows of panels of at most `panel` cm; None where no model has a latent space."""
    pairs = panels_of(study)
    return _placed(pairs, panel) if pairs else None


def _placed(pairs: Sequence[tuple[Recipe, Latent]], panel: float) -> Panels:
    n, free = _in_a_row(pairs, panel), TEXT_WIDTH - LEFT - RIGHT
    rows, gaps = math.ceil(len(pairs) / n), _gaps(pairs, n)
    side = min(panel, _room(pairs, n))
    # Panels that do not fill the width stand apart, but not so far that they part company, and
    # leave their titles room at both ends.
    more = min((free - n * side - sum(gaps)) / n, APART)
    gaps = [gap + more for gap in gaps]
    start = LEFT + (free - n * side - sum(gaps)) / 2
    left = [start + i * side + sum(gaps[:i]) for i in range(n)]
    # A title may reach over its panel's sides, as far as its neighbours and the page let it.
    wide = max(side, min(side + min([*gaps, math.inf]) - 0.2, side + 2 * (start - LEFT)))
    titles = [wrapped(recipe.title, wide) for recipe, _ in pairs]
    row = BELOW + side + 0.12 + LINE_HEIGHT * line_count(titles)
    corners = [(left[i % n], (rows - 1 - i // n) * row + BELOW) for i in range(len(pairs))]
    return Panels(titles, corners, side, rows * row)


def _in_a_row(pairs: Sequence[tuple[Recipe, Latent]], panel: float) -> int:
    """How many panels stand in a row. Where they need several rows in any case, so few of them that
    each may have that side."""
    rows = math.ceil(len(pairs) / MOST_IN_ROW)
    n = math.ceil(len(pairs) / rows)
    while rows > 1 and n > FEWEST_IN_ROW and _room(pairs, n) < panel:
        rows += 1
        n = math.ceil(len(pairs) / rows)
    return n


def _room(pairs: Sequence[tuple[Recipe, Latent]], n: int) -> float:
    """Side of the largest panels of which n stand in a row."""
    return (TEXT_WIDTH - LEFT - RIGHT - sum(_gaps(pairs, n))) / n


def _gaps(pairs: Sequence[tuple[Recipe, Latent]], n: int) -> list[float]:
    """Between the columns of n panels in a row, each as wide as its widest needs."""
    return [max(_gap(pair) for pair in pairs[i::n]) for i in range(1, n)]


def _gap(pair: tuple[Recipe, Latent]) -> float:
    """Room left of a panel in cm, for its own ticks and name of the axis, for the name, or for
    neither."""
    _, latent = pair
    return 1.35 if latent.chain is not None else 0.75 if latent.projected else 0.35


def prior_posterior(study: Study, panel: float = 4.7, folder: Path | None = None) -> Path | None:
    """One panel per recipe of part A, all on the same axes, and one of the first latent DDPM on its
    own; `panel` is the largest side in cm, `folder` where to write it if not with the others.

    Shaded regions hold 50, 80 and 95% of the prior's mass in the plane shown, dashed lines as much
    of the aggregate posterior.
    """
    pairs = panels_of(study)
    if not pairs:
        return None
    panels = _placed(pairs, panel)
    shared = [latent for _, latent in pairs if latent.chain is None]
    with rc_context(STYLE):
        figure, axes = _empty_panels(panels)
        for ax, (_, latent) in zip(axes, pairs, strict=True):
            _draw_panel(ax, latent, shared if latent.chain is None else [latent])
        for ax, (x, _), (_, latent) in zip(axes, panels.corners, pairs, strict=True):
            if x > panels.corners[0][0] and not _has_own_axes(latent):
                ax.set_ylabel("")
        return write(figure, folder or study.folder / "figures", "prior-posterior")


def latent_ddpm(study: Study, panel: float = 4.7) -> Path | None:
    """One panel per latent DDPM, each on axes of its own: the VAE's prior grey, the aggregate
    posterior as points, what the chain has learned of it as lines."""
    pairs = _chains(study)
    if not pairs:
        return None
    placed = _placed(pairs, panel)
    raised = [(x, y + LEGEND) for x, y in placed.corners]
    panels = replace(placed, corners=raised, height=placed.height + LEGEND)
    said = "grey: the VAE's prior;  points: q(z);  black: 50, 80 and 95% of the DDPM"
    with rc_context(STYLE):
        figure, axes = _empty_panels(panels)
        text_at(figure, TEXT_WIDTH / 2, 0.1, said)
        for ax, (_, latent) in zip(axes, pairs, strict=True):
            _draw_panel(ax, latent, [latent])
        return write(figure, study.folder / "figures", "latent-ddpm")


def _draw_panel(ax: Axes, latent: Latent, framed: Sequence[Latent]) -> None:
    """One latent space in the frame that holds all of `framed`."""
    centre, reach = _frame(framed)
    ax.set_xlim(centre[0] - reach, centre[0] + reach)
    ax.set_ylim(centre[1] - reach, centre[1] + reach)
    draw_prior(ax, latent)
    draw_posterior(ax, latent)
    if latent.chain is None:
        draw_prior_samples(ax, latent)
        draw_posterior_regions(ax, latent)
    else:
        ax.tick_params(labelleft=True)
        draw_chain(ax, latent)
    write_digits(ax, latent)
    _label_axes(ax, latent)


def _chains(study: Study) -> list[tuple[Recipe, Latent]]:
    recipes = [r for r in study.part("B") if r.family == "latent"]
    return [(r, latent) for r in recipes if (latent := read_latent(study, r))]


def panels_of(study: Study) -> list[tuple[Recipe, Latent]]:
    """What `prior_posterior` shows: the models of part A, and the first latent DDPM."""
    priors = [(r, latent) for r in study.part("A") if (latent := read_latent(study, r))]
    return [*priors, *_chains(study)[:1]]


def _frame(latents: Sequence[Latent]) -> tuple[np.ndarray, float]:
    """Centre and half side of the one square that shows nearly all of every cloud and prior; of
    what has heavy tails, its middle 98% and a third of their width on either side."""
    bounds = []
    for latent in latents:
        for cloud in (latent.posterior, latent.prior, latent.chain_draws):
            if cloud is not None and len(cloud):
                lowest, low, high, highest = np.quantile(cloud, [0.004, 0.01, 0.99, 0.996], axis=0)
                beside = (high - low) / 3
                bounds.append(
                    [np.maximum(lowest, low - beside), np.minimum(highest, high + beside)]
                )
    low, high = np.min(bounds, axis=(0, 1)), np.max(bounds, axis=(0, 1))
    return (low + high) / 2, float((high - low).max() / 2 * 1.1)


def _has_own_axes(latent: Latent) -> bool:
    # Principal components are each model's own, and a chain's panel has a scale of its own.
    return latent.projected or latent.chain is not None


def _empty_panels(panels: Panels) -> tuple[Figure, list[Axes]]:
    figure = blank(panels.height)
    axes = []
    for title, corner in zip(panels.titles, panels.corners, strict=True):
        ax = axes_at(figure, (*corner, panels.side, panels.side))
        ax.set_title(title, pad=4, linespacing=1.1)
        ax.locator_params(nbins=5 if panels.side > 3 else 3 if panels.side > 2.2 else 2)
        ax.tick_params(labelleft=corner[0] == panels.corners[0][0])
        axes.append(ax)
    return figure, axes


def _label_axes(ax: Axes, latent: Latent) -> None:
    names = ("z₁", "z₂")
    if latent.projected:
        names = tuple(f"PC {i} ({100 * v:.0f}%)" for i, v in enumerate(latent.explained, start=1))
    ax.set_xlabel(names[0], labelpad=1)
    ax.set_ylabel(names[1], labelpad=1)
