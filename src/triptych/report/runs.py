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
    """The aggregate posterior's cloud and the prior, both in one plane of the latent space."""

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
    """Density of a latent DDPM on the same grid."""
    chain_draws: np.ndarray | None = None
    """Some of what it drew; earlier results have none."""

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
    names = ("posterior", "labels", "prior", "grid_x", "grid_y", "density", "explained")
    chain, draws = (("chain",), ("chain_draws",)) if recipe.family == "latent" else ((), ())
    arrays = read_npz(path, (*names, *chain, "components"), draws)
    draws = tuple(name for name in draws if name in arrays)
    n, density = len(arrays["posterior"]), (arrays["grid_y"].size, arrays["grid_x"].size)
    shapes = {"posterior": (n, 2), "labels": (n,), "explained": (2,)}
    shapes |= {name: (len(arrays[name]), 2) for name in draws}
    check_shapes(path, arrays, shapes | dict.fromkeys(("density", *chain), density))
    first, second = (float(v) for v in arrays["explained"])
    return Latent(
        seed=seed,
        projected=str(arrays["components"]) == "pca",
        explained=(first, second),
        **{name: arrays[name] for name in (*names[:-1], *chain, *draws)},
    )


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
