"""The other figures: the models' samples side by side, and the bounds with their intervals."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

from triptych.report.canvas import (
    FONT_SIZE,
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
from triptych.report.load import Study, Summary, read_samples
from triptych.report.tables import best_iwae
from triptych.report.wording import label

MOST_GROUPS_IN_ROW = 3
GAP = 0.07


def samples(study: Study, n: int = 4, side: float = 1.3) -> Path | None:
    """The first n images of the first seed of every model of part B, `side` cm each at most."""
    found = [(r, read_samples(study, r, n)) for r in study.part("B")]
    groups = [(label(study, recipe), got[1]) for recipe, got in found if got is not None]
    if not groups:
        return None
    columns = min(len(groups), MOST_GROUPS_IN_ROW)
    widest = (TEXT_WIDTH - (columns - 1) * 0.5) / columns
    side = min(side, (widest - (n - 1) * GAP) / n)
    span = n * side + (n - 1) * GAP
    titles = [wrapped(title, span) for title, _ in groups]
    head = 0.15 + LINE_HEIGHT * line_count(titles)
    # A row of groups is as wide as the text; a single group stands in its middle.
    step = (TEXT_WIDTH - span) / (columns - 1) if columns > 1 else 0.0
    start = 0.0 if columns > 1 else (TEXT_WIDTH - span) / 2
    with rc_context(STYLE):
        height = math.ceil(len(groups) / columns) * (head + side) + 0.05
        figure = blank(height)
        for i, (title, (_, images)) in enumerate(zip(titles, groups, strict=True)):
            left = start + (i % columns) * step
            top = height - (i // columns) * (head + side) - head
            text_at(figure, left + span / 2, top + 0.1, title)
            for j, image in enumerate(images):
                corner = (left + j * (side + GAP), top - side)
                _draw_image(axes_at(figure, (*corner, side, side)), image)
        return write(figure, study.folder / "figures", "samples")


def likelihood(study: Study) -> Path | None:
    """Bounds on the test log-likelihood with their 95% intervals over runs, one row per prior."""
    recipes = study.part("A")
    iwae = best_iwae(study, recipes)
    metrics = [m for m in ("elbo", iwae) if m and any(study.score(r.name, m) for r in recipes)]
    if not metrics:
        return None
    with rc_context(STYLE):
        height = 0.3 + 0.8 * len(recipes)
        figure = blank(height + 2.1)
        ax = axes_at(figure, (5.5, 1.3, 10.8, height))
        for k, metric in enumerate(metrics):
            found = [study.score(r.name, metric) for r in recipes]
            _draw_intervals(ax, found, metric.upper(), "os"[k], 0.12 * (1 - 2 * k))
        ax.set_yticks(range(len(recipes)), [wrapped(label(study, r), 5.0) for r in recipes])
        ax.set_ylim(len(recipes) - 0.5, -0.5)
        ax.set_xlabel("nats (mean and 95% interval over runs)")
        ax.locator_params(axis="x", nbins=6)
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(metrics)}
        ax.legend(frameon=False, fontsize=FONT_SIZE, borderaxespad=0.2, **place)
        return write(figure, study.folder / "figures", "likelihood")


def _draw_intervals(
    ax: Axes, scores: Sequence[Summary | None], name: str, marker: str, shift: float
) -> None:
    for row, score in enumerate(scores):
        if score is None:
            continue
        label = name if score is next(s for s in scores if s is not None) else None
        colour = "black" if marker == "o" else "#888888"
        ax.plot([score.mean], [row - shift], marker, color=colour, ms=4, label=label)
        if score.interval95 is not None:
            ax.plot(score.interval95, [row - shift] * 2, "-", color=colour, lw=1)


def _draw_image(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.4, color="#999999")
