"""Which classes a classifier takes samples for, beside those of real images."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context

from triptych.report.canvas import STYLE, write
from triptych.report.curves import empty_plot, in_legend, legend_beside, runs_of_part_b, style
from triptych.report.load import Study


def classes(study: Study) -> Path | None:
    """The share of each class among the samples of each model, the mean over runs, on bars of its
    share among test images as the same classifier sees them."""
    found = runs_of_part_b(study, "classes.npz", "samples", "test")
    if not found:
        return None
    with rc_context(STYLE):
        figure, ax = empty_plot()
        real = next(iter(found.values()))[0]["test"]
        ax.bar(range(len(real)), 100 * real, color="#dddddd", label="test images")
        shift = np.linspace(-0.25, 0.25, len(found)) if len(found) > 1 else [0.0]
        for i, (name, runs) in enumerate(found.items()):
            shares = 100 * np.mean([run["samples"] for run in runs], 0)
            drawn: dict[str, Any] = {**style(i), "lw": 0.0, "ms": 4.5}
            ax.plot(np.arange(len(real)) + shift[i], shares, label=in_legend(name), **drawn)
        ax.set(xlabel="class", ylabel="% of the images", xticks=range(len(real)))
        ax.set_ylim(bottom=0)
        legend_beside(ax)
        return write(figure, study.folder / "figures", "classes")
