"""What a panel of a latent space is made of: densities, clouds, and the digits written on them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import Stroke

from triptych.report.canvas import TEXT_WIDTH
from triptych.report.runs import Latent

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
    "#000000",
)
MASSES = (0.95, 0.8, 0.5)  # of which regions are shown
MOST_POINTS, POINTS = 3000, 1000.0  # of q(z) in a panel; in a square cm of it
MOST_RINGS, RINGS = 150, 40.0  # the same of draws from a prior
DASHES = (0, (2.5, 1.5))
APART = 0.3  # cm from one digit to the next
CLEAR = 1.5  # cm that a cloud is wide at least, which ten of them do not hide


def draw_prior(ax: Axes, latent: Latent) -> None:
    """Shaded regions that hold 50, 80 and 95% of the prior's mass in the plane: of a density that
    is exact there, or else of the prior's draws, which a smoothed density would take more room for.
    """
    shades = ["#EFEFEF", "#DEDEDE", "#CCCCCC"]
    lines = {"colors": "#606060", "linewidths": 0.6}
    _outline(ax, latent, latent.density, prior_levels(latent), shades, **lines)


def prior_levels(latent: Latent) -> list[float]:
    """Densities above which 95, 80 and 50% of the prior lie."""
    if latent.projected:
        return cloud_levels(latent, latent.density, latent.prior)
    return mass_levels(latent, latent.density)


def draw_chain(ax: Axes, latent: Latent) -> None:
    """Lines around 50, 80 and 95% of what a latent DDPM draws, if there is one; and again around
    95% of the prior, which its cloud of another scale hides."""
    if latent.chain is None:
        return
    levels = mass_levels(latent, latent.chain)
    if latent.chain_draws is not None:
        levels = cloud_levels(latent, latent.chain, latent.chain_draws)
    _outline(ax, latent, latent.chain, levels, [], colors="k", linewidths=1.1)
    widest = prior_levels(latent)[:1]
    for colour, width in (("white", 2.6), ("#606060", 1.2)):
        _outline(ax, latent, latent.density, widest, [], colors=colour, linewidths=width)


def _outline(
    ax: Axes,
    latent: Latent,
    density: np.ndarray,
    levels: list[float],
    shades: list[str],
    **lines: Any,
) -> None:
    """Where the density is above each of the levels: shaded if there are shades, and outlined."""
    x, y, seen = _seen(ax, latent, density)
    if min(seen.shape) > 1 and levels:
        if shades:
            ax.contourf(x, y, seen, [*levels, np.inf], colors=shades)
        ax.contour(x, y, seen, levels, **lines)


def _seen(ax: Axes, latent: Latent, density: np.ndarray) -> tuple[np.ndarray, ...]:
    # Only the part inside the frame: a vector line keeps its whole length in the file, clipped
    # or not, and the page's margins are measured on it.
    inside_x = _inside(latent.grid_x, *ax.get_xlim())
    inside_y = _inside(latent.grid_y, *ax.get_ylim())
    return latent.grid_x[inside_x], latent.grid_y[inside_y], density[np.ix_(inside_y, inside_x)]


def _inside(grid: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.flatnonzero((grid >= low) & (grid <= high))


def mass_levels(latent: Latent, density: np.ndarray) -> list[float]:
    """Densities whose upper sets hold the masses of MASSES, strictly increasing."""
    flat = np.sort(density.ravel())[::-1].astype(np.float64)
    cell = np.prod([np.ptp(grid) / (grid.size - 1) for grid in (latent.grid_x, latent.grid_y)])
    held = np.cumsum(flat) * cell
    held /= max(held[-1], 1.0)
    levels = [float(flat[np.searchsorted(held, mass)]) for mass in MASSES if mass <= held[-1]]
    return sorted({level for level in levels if level > 0})


def draw_posterior(ax: Axes, latent: Latent) -> None:
    """Points of the aggregate posterior in the colours of their classes."""
    most = room_for(ax, latent.posterior, MOST_POINTS, POINTS)
    index = np.linspace(0, len(latent.posterior) - 1, most).astype(int)
    points, labels = latent.posterior[index], latent.labels[index]
    colours = [_colour_of(int(c)) for c in labels]
    size = 2.0 if len(latent.posterior) > 1000 else 5.0
    ax.scatter(*points.T, s=size, c=colours, linewidths=0, alpha=0.75, rasterized=True)


def _colour_of(label: int) -> str:
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def draw_posterior_regions(ax: Axes, latent: Latent) -> None:
    """Dashed lines around 50, 80 and 95% of the aggregate posterior's cloud."""
    density = posterior_density(latent)
    levels = cloud_levels(latent, density, latent.posterior)
    lines = {"colors": "k", "linewidths": 0.7, "linestyles": [DASHES]}
    _outline(ax, latent, density, levels, [], **lines)


def posterior_density(latent: Latent) -> np.ndarray:
    """Of the cloud, on the grid of the prior's density, [Y, X]: counts, each class smoothed by its
    own width, std n^(-1/6) (Scott's rule for two dimensions). That of all would smear clusters."""
    from scipy.ndimage import gaussian_filter

    axes = (latent.grid_y, latent.grid_x)
    steps = np.array([axis[1] - axis[0] for axis in axes])
    edges = [
        np.append(axis, axis[-1] + step) - step / 2 for axis, step in zip(axes, steps, strict=True)
    ]
    smooth = np.zeros_like(latent.density, np.float64)
    for c in latent.classes:
        points = latent.posterior[latent.labels == c][:, ::-1]
        counts, *_ = np.histogram2d(*points.T, bins=edges)
        width = points.std(0) * len(points) ** (-1 / 6)
        smooth += gaussian_filter(counts, width / steps, mode="constant")
    return smooth / (len(latent.posterior) * steps.prod())


def cloud_levels(latent: Latent, density: np.ndarray, cloud: np.ndarray) -> list[float]:
    """Densities above which the shares MASSES of the cloud lie, counted in the cloud itself,
    as smoothing spreads the density's own mass."""
    axes = (latent.grid_x, latent.grid_y)
    column, row = (
        np.clip(np.rint((at - axis[0]) / (axis[1] - axis[0])), 0, len(axis) - 1).astype(int)
        for axis, at in zip(axes, cloud.T, strict=True)
    )
    found = np.quantile(density[row, column], [1 - mass for mass in MASSES])
    return sorted({float(level) for level in found if level > 0})


def draw_prior_samples(ax: Axes, latent: Latent) -> None:
    """Some draws of a prior that is projected on the plane."""
    if latent.projected:
        few = latent.prior[: room_for(ax, latent.prior, MOST_RINGS, RINGS)]
        ax.scatter(
            *few.T, s=7, facecolors="none", edgecolors="#404040", linewidths=0.4, rasterized=True
        )


def room_for(ax: Axes, cloud: np.ndarray, most: int, per_cm2: float) -> int:
    """How many points of a cloud to draw: not so many that they cover the panel's lines."""
    low, high = np.quantile(cloud, [0.025, 0.975], axis=0)
    area = np.prod((high - low) * cm_a_unit(ax))
    return int(np.clip(per_cm2 * area, 1, min(most, len(cloud))))


def cm_a_unit(ax: Axes) -> float:
    """The scale of a panel."""
    low, high = ax.get_xlim()
    return ax.get_position().width * TEXT_WIDTH / (high - low)


def write_digits(ax: Axes, latent: Latent) -> None:
    """The name of each class at its median, black on a rim of its colour; none where they would
    hide the cloud, or beside a chain the prior, or where there is one class."""
    if latent.classes.size < 2:
        return
    low, high = np.array(ax.get_xlim()), np.array(ax.get_ylim())
    origin, reach = np.array([low[0], high[0]]), low[1] - low[0]
    scale = cm_a_unit(ax)
    side = scale * reach
    if np.ptp(np.quantile(latent.posterior, [0.01, 0.99], axis=0), 0).max() * scale < CLEAR:
        return
    centres = np.array(
        [np.median(latent.posterior[latent.labels == c], axis=0) for c in latent.classes]
    )
    places = spread_apart((centres - origin) * scale, APART, side) / scale + origin
    hiding = on_small_prior(latent, places, scale)
    for c, centre, (x, y), hides in zip(latent.classes, centres, places, hiding, strict=True):
        if hides:
            continue
        colour = _colour_of(int(c))
        # A line leads a digit that had to stand aside back to where its class is.
        ax.plot([centre[0], x], [centre[1], y], color=colour, lw=0.9, scalex=False, scaley=False)
        rim: Any = [
            Stroke(linewidth=3, foreground=colour),
            Stroke(linewidth=1.7, foreground="white"),
        ]
        how: Any = {"ha": "center", "va": "center_baseline", "fontweight": "bold"}
        ax.text(x, y, str(c), **how).set_path_effects(rim)  # which are drawn, not written
        ax.text(x, y, str(c), **how)


def on_small_prior(latent: Latent, places: np.ndarray, scale: float) -> np.ndarray:
    """Which of the places lie on the prior, where it stands beside a chain and at `scale` cm a unit
    is too small to be written on."""
    low, high = np.quantile(latent.prior, [0.025, 0.975], axis=0)
    small = latent.chain is not None and (high - low).max() * scale < CLEAR
    return ((places > low) & (places < high)).all(1) & small


def spread_apart(points: np.ndarray, least: float, side: float) -> np.ndarray:
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
