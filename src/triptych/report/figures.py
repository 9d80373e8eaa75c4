"""Pictures made of images: samples side by side, what is nearest to them, reconstructions, the
latent manifold."""

import math
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

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
from triptych.report.grid import mosaic
from triptych.report.load import Recipe, Study
from triptych.report.runs import read_arrays, read_images, read_samples
from triptych.report.wording import labels

MOST_GROUPS_IN_ROW, MOST_IN_ONE_ROW = 3, 5
SAMPLES, PAIRS = 4, 6  # images shown of a model
SIDE, GAP = 1.3, 0.07  # of an image, and between two, in cm
PLANE = 5.4  # cm, side of a latent plane
NEAREST, RECONSTRUCTIONS = "nearest.npz", "reconstructions.npz"


def samples(study: Study) -> Path | None:
    """The first images of the first seed of every model of part B."""
    found = [(r, read_samples(study, r, SAMPLES)) for r in study.part("B")]
    groups = [(recipe.title, got[1]) for recipe, got in found if got is not None]
    if not groups:
        return None
    # Many groups stand in one row of small images rather than take a second from the page.
    columns = len(groups) if len(groups) <= MOST_IN_ONE_ROW else MOST_GROUPS_IN_ROW
    widest = (TEXT_WIDTH - (columns - 1) * 0.5) / columns
    side = min(SIDE, (widest - (SAMPLES - 1) * GAP) / SAMPLES)
    span = SAMPLES * side + (SAMPLES - 1) * GAP
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


def nearest(study: Study) -> Path | None:
    """The first samples of each model's first run that has their neighbours too, each above the
    training image nearest to it."""
    found = []
    for recipe in study.recipes:
        first = study.first_run(recipe, NEAREST)
        if first is not None and (samples := first[1].with_name("samples.npz")).is_file():
            found.append((recipe, read_images(samples), read_images(first[1])))
    return _in_pairs(study, found, "nearest", "each sample above the training image nearest to it")


def reconstructions(study: Study) -> Path | None:
    """The first test images as a model's first run sees them, each above E[x|z], z ~ q(z|x)."""
    found = []
    for recipe in study.recipes:
        if (first := study.first_run(recipe, RECONSTRUCTIONS)) is not None:
            pair = (read_images(first[1], name=name) for name in ("images", "means"))
            found.append((recipe, *pair))
    return _in_pairs(study, found, "reconstructions", "each test image above its reconstruction")


def _in_pairs(
    study: Study, found: list[tuple[Recipe, np.ndarray, np.ndarray]], stem: str, said: str
) -> Path | None:
    """For each recipe its first images [n, H, W], a row above another."""
    if not found:
        return None
    titles = labels(study, [recipe for recipe, *_ in found])
    span = PAIRS * SIDE + (PAIRS - 1) * GAP
    rows = [(wrapped(title, span), *pair) for title, (_, *pair) in zip(titles, found, strict=True)]
    columns = 2 if len(rows) > 1 else 1
    head = 0.15 + LINE_HEIGHT * line_count([title for title, *_ in rows])
    block = head + 2 * SIDE + GAP
    step = TEXT_WIDTH - span if columns > 1 else 0.0
    with rc_context(STYLE):
        height = math.ceil(len(rows) / columns) * block + 0.15 + LINE_HEIGHT
        figure = blank(height)
        text_at(figure, (step + span) / 2, 0.1, said)
        for i, (title, *pair) in enumerate(rows):
            left, top = i % columns * step, height - i // columns * block - head
            text_at(figure, left + span / 2, top + 0.1, title)
            for below, images in enumerate(pair):
                for j, image in enumerate(images[:PAIRS]):
                    low = top - SIDE - below * (SIDE + GAP)
                    place = (left + j * (SIDE + GAP), low, SIDE, SIDE)
                    _draw_image(axes_at(figure, place), image)
        return write(figure, study.folder / "figures", stem)


def manifold(study: Study) -> Path | None:
    """E[x|z] over the latent plane, for each model of part A that has one, on axes of its own."""
    found = [
        (r, read_arrays(study, r, "manifold.npz", "images", "x", "y")) for r in study.part("A")
    ]
    shown = [(recipe.title, runs[0]) for recipe, runs in found if runs]
    if not shown:
        return None
    columns = min(len(shown), MOST_GROUPS_IN_ROW)
    step = (TEXT_WIDTH - 0.1) / columns
    side = min(PLANE, step - 1.2)
    titles = [wrapped(title, side) for title, _ in shown]
    block = side + 1.1 + 0.15 + LINE_HEIGHT * line_count(titles)
    with rc_context(STYLE):
        height = math.ceil(len(shown) / columns) * block
        figure = blank(height)
        for i, (title, (_, arrays)) in enumerate(zip(titles, shown, strict=True)):
            left = i % columns * step + 1.1
            place = (left, height - (i // columns + 1) * block + 1.1, side, side)
            ax = axes_at(figure, place)
            x, y = arrays["x"], arrays["y"]
            images = arrays["images"][:, :, 0]  # [Y, X, H, W]
            sheet = mosaic(images.reshape(-1, *images.shape[2:]), images.shape[1], 0, 0)
            half = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
            extent = (x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1])
            ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=255, extent=extent, aspect="auto")
            ax.set_title(title, pad=4, linespacing=1.1)
            ax.locator_params(nbins=5)
            ax.set_xlabel("z₁", labelpad=1)
            ax.set_ylabel("z₂", labelpad=1)
        return write(figure, study.folder / "figures", "manifold")


def _draw_image(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.4, color="#999999")
