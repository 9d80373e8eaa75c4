"""The arrays that a study's runs keep, read back: latent spaces, samples, and what curves are drawn
of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triptych.errors import UserError
from triptych.report.arrays import AGAIN, check_shapes, read_npz
from triptych.report.load import Recipe, Study


@dataclass(frozen=True)
class Latent:
    """The aggregate posterior's cloud and the prior, both in one plane of the latent space: where M
    > 2, it is `projected` on q(z)'s first two principal components, which have the `explained`
    shares of its variance.

    `posterior`: z of test images, [n, 2], with their `labels`, [n]. `prior`: draws, [m, 2].
    `density`: of the prior, at `grid_x`, [X], and `grid_y`, [Y], [Y, X]. Of a latent DDPM, `chain`
    is its density on that grid, and `chain_draws`, [k, 2], some of what it drew, which earlier
    results have not.
    """

    seed: int
    posterior: np.ndarray
    labels: np.ndarray
    prior: np.ndarray
    grid_x: np.ndarray
    grid_y: np.ndarray
    density: np.ndarray
    projected: bool
    explained: tuple[float, float]
    chain: np.ndarray | None = None
    chain_draws: np.ndarray | None = None

    @property
    def classes(self) -> np.ndarray:
        """Those of the cloud's images; one where they have no labels."""
        return np.unique(self.labels)


def read_latent(study: Study, recipe: Recipe) -> Latent | None:
    """latent.npz of the first run that has one; None when no run of the recipe does."""
    found = study.first_run(recipe, "latent.npz")
    if found is None:
        return None
    seed, path = found
    names = ("posterior", "labels", "prior", "grid_x", "grid_y", "density")
    optional: tuple[str, ...] = ()
    if recipe.family == "latent":
        names, optional = (*names, "chain"), ("chain_draws",)
    arrays = read_npz(path, (*names, "explained", "components"), optional)
    check_shapes(path, arrays, _latent_shapes(arrays))
    components, (first, second) = arrays.pop("components"), arrays.pop("explained")
    explained = (float(first), float(second))
    return Latent(seed=seed, projected=str(components) == "pca", explained=explained, **arrays)


def _latent_shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes that these arrays of a `Latent` must have beside each other."""
    clouds = [name for name in ("posterior", "prior", "chain_draws") if name in arrays]
    densities = [name for name in ("density", "chain") if name in arrays]
    x, y = arrays["grid_x"].size, arrays["grid_y"].size
    return {
        **{name: (*arrays[name].shape[:1], 2) for name in clouds},
        "labels": arrays["posterior"].shape[:1],
        "explained": (2,),
        "grid_x": (x,),
        "grid_y": (y,),
        **dict.fromkeys(densities, (y, x)),
    }


def read_samples(study: Study, recipe: Recipe, n: int) -> tuple[int, np.ndarray] | None:
    """(seed, the first n images [n, H, W]) of the first run that has samples."""
    found = study.first_run(recipe, "samples.npz")
    if found is None:
        return None
    seed, path = found
    return seed, read_images(path, n)[:n]


def read_images(path: Path, least: int = 1, name: str = "images") -> np.ndarray:
    """Images [n, H, W] that a run keeps, of which there must be so many."""
    images = read_npz(path, (name,))[name]
    if images.ndim != 4 or len(images) < least or images.dtype != np.uint8:
        raise UserError(
            f"{path} holds images of shape {images.shape}, and the report shows {least} of "
            f"[n, 1, H, W]; {AGAIN}"
        )
    return images[:, 0]


def read_arrays(
    study: Study, recipe: Recipe, file: str, *names: str, optional: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The arrays of every run of the recipe that has `file`, in the order of the seeds."""
    paths = [folder / file for _, folder in study.runs(recipe)]
    return [read_npz(path, names, optional) for path in paths if path.is_file()]
