"""report.html: all that a study stored on one page, to be looked at in a browser.

The page has no room to keep: every metric with its protocol and all seeds, paired differences, the
course of the training, all samples, the figures, what each run cost. It stands alone, images and
all, and asks nothing of a network.
"""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from triptych.report.grid import mosaic
from triptych.report.load import Recipe, Study, read_study
from triptych.report.panels import metrics
from triptych.report.runs import read_images
from triptych.report.training import HEIGHT, WIDTH, Chart, charts
from triptych.report.wording import capital, count, counted, dataset_name, labels, number
from triptych.train.files import read_json, write_text
from triptych.validation import validated

PAGE = "report.html"
MANIFEST, AUTOENCODER = "manifest.json", "autoencoder"
BESIDE = ("report.pdf", "handin.zip")
ACROSS = 8  # samples in a row
SHEET = 240  # pixels that a row should have on the screen
PAPER = 255  # white; digits are drawn in black
CAPTIONS = {
    "prior-posterior": "prior and aggregate posterior, a run each. Dots: q(z), by class where "
    "images have one; dashed: 50, 80 and 95% of q(z); grey: of the prior; rings: draws from a "
    "prior seen in projection; lines: of a latent DDPM, on axes of its own",
    "latent-ddpm": "beta-VAE prior, latent DDPM and aggregate posterior, each on axes of its own",
    "likelihood": "bounds on the log-likelihood of test images: means, and 95% intervals over runs "
    "where there are several",
    "iwae-growth": "IWAE-k against k: what more importance samples bring",
    "dimensions": "divergence of each latent dimension from the prior's marginal: those at zero "
    "carry nothing about an image",
    "manifold": "E[x|z] over the latent plane",
    "reconstructions": "test images as the model sees them, each above its reconstruction E[x|z], "
    "z drawn from q(z|x)",
    "samples": "the first samples of each model of part B, none picked",
    "nearest": "samples, each above the training image nearest to it",
    "fid-growth": "FID against the number of samples: those of different N are not comparable",
    "classes": "the classes that a classifier sees in samples, and in test images",
    "bound-terms": "the terms of each chain's bound against the step; it is their sum plus L_T",
    "quality-time": "FID against the time of a sample: best at the lower left; a run each, "
    "unguided except where sampled as in the tables",
}


@dataclass(frozen=True)
class Shown:
    """Images of one run: a picture as a data URI, and its size on the screen."""

    seed: int
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Model:
    """All of one model that is not a score."""

    recipe: Recipe
    title: str
    charts: dict[str, Chart]
    samples: list[Shown]
    nearest: list[Shown]
    costs: list[dict[str, str]]
    settings: list[tuple[str, str]]

    @property
    def columns(self) -> list[str]:
        """Of the table of costs; runs of several versions may have noted different ones."""
        return list(dict.fromkeys(key for cost in self.costs for key in cost))


def write_explorer(study_folder: Path) -> Path:
    """Writes report.html beside the study's results, of which it reads no more than there is."""
    study = read_study(Path(study_folder))
    models = [
        _model(study, recipe, title)
        for recipe, title in zip(study.recipes, labels(study, study.recipes), strict=True)
    ]
    template = _environment().get_template("explorer.html")
    page = template.render(
        study=study,
        dataset=dataset_name(study.dataset),
        models=models,
        metrics=metrics(study),
        figures=_figures(study),
        plane=(WIDTH, HEIGHT),
        beside=[name for name in BESIDE if (study.folder / name).is_file()],
        titles={m.recipe.name: m.title for m in models},
    )
    path = study.folder / PAGE
    write_text(path, page)
    return path


def _environment() -> Environment:
    """Templates of this folder; every value is escaped, and none may be missing."""
    found = Environment(
        loader=PackageLoader("triptych.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"thousands": count, "capital": capital}
    return found


def _model(study: Study, recipe: Recipe, title: str) -> Model:
    runs, samples, nearest = study.runs(recipe), [], []
    for seed, folder in runs:
        if not (folder / "samples.npz").is_file():
            continue
        images = read_images(folder / "samples.npz")
        samples.append(_shown(seed, images))
        if (folder / "nearest.npz").is_file() and len(images) >= ACROSS:
            near = read_images(folder / "nearest.npz", ACROSS)
            nearest.append(_shown(seed, _in_turn(images, near)))
    vaes = [(seed, folder.parent / AUTOENCODER / folder.name) for seed, folder in runs]
    return Model(
        recipe=recipe,
        title=title,
        charts=charts(f"{title}: its VAE", vaes) | charts(title, runs),
        samples=samples,
        nearest=nearest,
        costs=[_cost(seed, folder) for seed, folder in runs if (folder / MANIFEST).is_file()],
        settings=flat(recipe.model) + flat(recipe.train),
    )


def flat(settings: dict[str, Any], inside: str = "") -> list[tuple[str, str]]:
    """Settings and their values, those in a table under its name."""
    found = []
    for key, value in settings.items():
        inner = isinstance(value, dict)
        found += flat(value, f"{inside}{key}.") if inner else [(f"{inside}{key}", str(value))]
    return found


def _in_turn(images: NDArray[np.uint8], near: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of samples, each above the row of what is nearest to them."""
    n = min(len(images), len(near)) // ACROSS * ACROSS
    pair = [x[:n].reshape(-1, ACROSS, *x.shape[1:]) for x in (images, near)]
    return np.stack(pair, 1).reshape(-1, *images.shape[1:])


def _shown(seed: int, images: NDArray[np.uint8]) -> Shown:
    """Images [n, H, W] in rows, black on white, as a PNG."""
    sheet = PAPER - mosaic(images, ACROSS, 1, 0)
    raw = BytesIO()
    Image.fromarray(sheet).save(raw, "PNG", optimize=True)
    height, width = sheet.shape
    times = max(1, SHEET // width)
    return Shown(seed, _uri(raw.getvalue()), times * width, times * height)


@dataclass(frozen=True)
class Manifest:
    """What is shown of a run's manifest.json."""

    seconds: dict[str, float]
    peak_memory_bytes: int
    device: str
    threads: int
    libraries: dict[str, str]
    finished: str
    git_commit: str | None = None


def _cost(seed: int, folder: Path) -> dict[str, str]:
    """What a run cost, where, and by which code."""
    path = folder / MANIFEST
    found: Manifest = validated(Manifest, read_json(path), str(path))
    return {
        "seed": str(seed),
        **{k: f"{number(v, 0)} s" for k, v in found.seconds.items()},
        "memory": f"{number(found.peak_memory_bytes / 2**30, 1)} GiB",
        "device": f"{found.device}, {counted(found.threads, 'thread')}",
        "torch": found.libraries.get("torch", ""),
        "commit": found.git_commit or "",
        "finished (UTC)": found.finished[:16].replace("T", " "),
    }


def _figures(study: Study) -> list[tuple[str, str]]:
    """(caption, data URI) of those that were drawn, in the order of CAPTIONS."""
    folder = study.folder / "figures"
    paths = [(words, folder / f"{name}.png") for name, words in CAPTIONS.items()]
    return [(words, _uri(path.read_bytes())) for words, path in paths if path.is_file()]


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
