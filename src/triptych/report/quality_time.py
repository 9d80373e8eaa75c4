"""FID against the time of a sample, for every model and every way to draw from it."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context

from triptych.evaluate.tradeoff import SETTINGS
from triptych.report.canvas import STYLE, write
from triptych.report.curves import (
    empty_plot,
    in_legend,
    legend_beside,
    log_ticks,
    runs_of_part_b,
    style,
)
from triptych.report.load import Study
from triptych.report.wording import count, noise_and_times

TRADEOFF = ("sampler", "evaluations", "seconds", "fid", "n", "floor")
WAYS = {
    "asked": ("*", "sampled as in the tables"),
    "dpm-solver++": ("o", "DPM-Solver++"),
    "dpm-solver++ sde": ("P", "DPM-Solver++"),
    "unipc": ("v", "UniPC"),
    "heun": ("^", "Heun"),
    "ddim": ("s", "DDIM"),
    "ancestral": ("D", "ancestral"),
}


def tradeoff(study: Study) -> Path | None:
    """FID against seconds a sample: colours are models, markers their samplers, a line joins the
    numbers of steps of one sampler. One run each."""
    found = runs_of_part_b(
        study, "tradeoff.npz", *TRADEOFF, optional=SETTINGS
    )  # earlier runs have none
    rows = {name: runs[0] for name, runs in found.items()}
    if not rows:
        return None
    with rc_context(STYLE):
        figure, ax = empty_plot()
        first = next(iter(rows.values()))
        n = count(int(first["n"]))
        ax.set(xscale="log", yscale="log", xlabel="milliseconds a sample", ylabel=f"FID, N = {n}")
        for i, (name, run) in enumerate(rows.items()):
            ax.plot([], [], "-", lw=3, color=style(i)["color"], label=in_legend(name))
            for way, (marker, _) in WAYS.items():
                mine = run["sampler"] == way
                size = 9 if way == "asked" else 4
                drawn = {"color": style(i)["color"], "marker": marker, "ms": size, "lw": 1.0}
                ax.plot(1000 * run["seconds"][mine], run["fid"][mine], **drawn)
        for way, (marker, said) in WAYS.items():
            mine = [_rows(run, way) for run in rows.values()]
            most = max(mine, key=lambda run: len(run["evaluations"]))
            if len(most["evaluations"]):
                label = said if way == "asked" else said + _settings(most)
                ax.plot([], [], marker, color="black", ms=5, label=in_legend(label))
        if np.isfinite(first["floor"]):  # of as many images as there are samples
            ax.axhline(float(first["floor"]), ls="--", color="black", lw=1, label="real images")
        log_ticks(ax)
        legend_beside(ax)
        return write(figure, study.folder / "figures", "quality-time")


def _rows(run: dict[str, Any], way: str) -> dict[str, np.ndarray]:
    """What was drawn in one way."""
    mine = run["sampler"] == way
    return {name: run[name][mine] for name in ("evaluations", *SETTINGS) if name in run}


def _settings(rows: dict[str, np.ndarray]) -> str:
    """Its noise, where it has any, and its network evaluations."""
    noise = {name: rows[name][0] for name in SETTINGS if name in rows and rows[name][0] > 0}
    calls = ", ".join(str(e) for e in rows["evaluations"])
    return f"{noise_and_times(noise)} ({calls} evaluations)"
