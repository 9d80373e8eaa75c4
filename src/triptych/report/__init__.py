"""The finished report of a study. It reads what the study stored and never loads a model."""

from collections.abc import Sequence
from pathlib import Path

from triptych.report.canvas import with_letters
from triptych.report.classes import classes
from triptych.report.curves import dimensions, frechet, growth, likelihood, terms
from triptych.report.explorer import CAPTIONS, write_explorer
from triptych.report.figures import manifold, nearest, reconstructions
from triptych.report.handin import handin, not_their_own, other_features
from triptych.report.latent_figure import latent_ddpm, prior_posterior
from triptych.report.load import Study, read_study
from triptych.report.page import write_page
from triptych.report.quality_time import tradeoff
from triptych.report.snippets import Ask

__all__ = ["handin", "not_their_own", "other_features", "write_explorer", "write_report"]

# Each draws one figure of the study and returns its PDF, or None where there is nothing to draw.
DRAWN = (
    prior_posterior,
    likelihood,
    growth,
    dimensions,
    frechet,
    classes,
    terms,
    tradeoff,
    manifold,
    reconstructions,
    nearest,
    latent_ddpm,
)


def write_report(study_folder: Path, snippets: Sequence[Ask] | None = None) -> Path:
    """Draws the figures, sets the report, page 1 with its own figures as large as fit, and measures
    it; returns report.pdf. In any case writes report.html, which has room for everything.

    Raises UserError when the study lacks what the report needs, LimitError when the assignment's
    limits cannot be kept; report.pdf exists only where they are.
    """
    study = read_study(Path(study_folder))
    try:
        with with_letters("".join(recipe.title for recipe in study.recipes)):
            drawn = {path.stem for draw in DRAWN if (path := draw(study)) is not None}
            _forget_figures(study, drawn)
            return write_page(study, snippets)
    finally:
        write_explorer(study.folder)


def _forget_figures(study: Study, drawn: set[str]) -> None:
    """Remove figures of models or scores that the study had once. `drawn` is without the samples,
    which are drawn with the page."""
    sampled = any(study.first_run(recipe, "samples.npz") for recipe in study.part("B"))
    kept = drawn | ({"samples"} if sampled else set())
    for name in CAPTIONS.keys() - kept:
        for kind in ("pdf", "png"):
            (study.folder / "figures" / f"{name}.{kind}").unlink(missing_ok=True)
