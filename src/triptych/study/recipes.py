"""Recipes: what to build and how to train it, as plain data with names.

Strings live here and in the command line; everywhere else parts are passed as objects.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from triptych.errors import UserError
from triptych.study.configs import (
    BINARY,
    STRICT,
    DDPMConfig,
    LatentDDPMConfig,
    ModelConfig,
    PixelFlowConfig,
    Prior,
    VAEConfig,
)
from triptych.study.needs import check_needs
from triptych.train.order import TrainConfig
from triptych.validation import validated

FOLDER = r"^[a-z0-9][a-z0-9_-]{0,63}$"  # the name of a recipe, whose runs' folder it names
TAKEN = ("figures", "lock")  # names of other things in a study's folder
ViewName = Literal["threshold", "dynamic", "raw"]


@dataclass(frozen=True)
class Recipe:
    """One row of the report: a model, what it sees, how it is trained."""

    __pydantic_config__ = STRICT
    name: Annotated[str, Field(pattern=FOLDER)]
    title: Annotated[str, Field(min_length=1, max_length=60, pattern=r"\S")]
    part: Literal["A", "B"]
    view: ViewName
    model: Annotated[ModelConfig, Field(discriminator="kind")]
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        """A name must be free for a folder, a likelihood of what the view shows."""
        if self.name in TAKEN:
            raise UserError(
                f"a recipe's folder cannot be called {self.name!r}; choose another name"
            )
        if self.part == "A" and not isinstance(self.model, VAEConfig):
            raise UserError(f"part = 'A' is of VAEs, and {self.name} is none; choose part = 'B'")
        seen_by = getattr(self.model, "vae", self.model)
        binary = getattr(seen_by, "likelihood", None) in BINARY
        if binary == (self.view == "raw"):
            allowed = "threshold or dynamic" if binary else "raw"
            raise UserError(
                f"view = {self.view!r} does not suit its model; set view = {allowed}, or another "
                f"likelihood"
            )


TITLES: dict[Prior, str] = {
    "gaussian": "Gaussian",
    "mixture": "Mixture of Gaussians",
    "flow": "Flow",
    "spline": "Neural spline flow",
    "maf": "Autoregressive flow",
    "vamp": "VampPrior",
    "resampled": "Resampled",
    "hierarchical": "Hierarchical",
    "hierarchical-vamp": "Hierarchical VampPrior",
}
BRIEF_PRIORS: tuple[Prior, ...] = ("gaussian", "mixture", "flow")


def _part_a(
    latent_dim: int, hidden: tuple[int, ...], pseudo_inputs: int, train: TrainConfig
) -> list[Recipe]:
    """Every prior on one network, with one budget; those of two levels have an encoder for each."""

    def recipe(prior: Prior, title: str) -> Recipe:
        config = VAEConfig(
            prior=prior, latent_dim=latent_dim, hidden=hidden, pseudo_inputs=pseudo_inputs
        )
        return Recipe(f"vae-{prior}", title, "A", "threshold", config, train)

    return [recipe(prior, title) for prior, title in TITLES.items()]


def mnist_recipes() -> list[Recipe]:
    """The recipes for MNIST-class images, at the budget of the cpu preset."""
    small: dict[str, Any] = {"network": "residual", "channels": (32, 64)}
    vae = VAEConfig(prior="spline", mean_samples=True, **small)
    logistic = VAEConfig(prior="flow", likelihood="logistic")
    flow = TrainConfig(epochs=6, batch_size=32, lr=4e-3, clip=500.0)
    patch: dict[str, Any] = {"network": "patch", "width": 128, "autoregressive_layers": 1}
    spline = PixelFlowConfig(coupling="spline", bins=4, dequantization="variational", **patch)
    mlp, masked = PixelFlowConfig(network="mlp", steps=8, width=512), replace(flow, lr=1e-3)
    muon = replace(flow, epochs=8, batch_size=64, optimizer="muon")
    ddpm = TrainConfig(epochs=14.5, batch_size=32, lr=1.5e-3, clip=1.0, early=0.25)
    beta_vae = VAEConfig(likelihood="gaussian", beta=1e-6, **small)
    chain = LatentDDPMConfig(vae=beta_vae, vae_train=TrainConfig(epochs=10, clip=1000.0))
    latent = TrainConfig(epochs=40, lr=1e-3, clip=1.0, early=0.25)
    return [
        *_part_a(32, (512, 512), 500, TrainConfig()),
        Recipe("vae-grey", "VAE", "B", "dynamic", vae, TrainConfig(epochs=10, optimizer="muon")),
        Recipe("vae-logistic", "VAE, logistic", "B", "raw", logistic, TrainConfig(clip=1000.0)),
        Recipe("pixelflow", "Flow", "B", "raw", PixelFlowConfig(), flow),
        Recipe("pixelflow-spline", "Flow, splines", "B", "raw", spline, muon),
        Recipe("pixelflow-mlp", "Flow, MLPs", "B", "raw", mlp, masked),
        Recipe("ddpm", "DDPM", "B", "raw", DDPMConfig(), ddpm),
        Recipe("vdm", "VDM", "B", "raw", DDPMConfig(schedule="learned"), ddpm),
        Recipe("latent-ddpm", "Latent DDPM", "B", "raw", chain, latent),
    ]


def digits_recipes() -> list[Recipe]:
    """Small networks for small images, M = 2 so that all can be seen."""
    vae = TrainConfig(epochs=150, batch_size=128, weight_decay=0.05)
    grey = VAEConfig(prior="flow", latent_dim=8, hidden=(256, 256), mean_samples=True)
    logistic = VAEConfig(prior="flow", latent_dim=8, hidden=(256, 256), likelihood="logistic")
    flow = TrainConfig(epochs=100, batch_size=128, lr=3e-3, clip=500.0)
    conv = PixelFlowConfig(steps=4, width=64)
    patch: dict[str, Any] = {"network": "patch", "autoregressive_layers": 1}
    spline = replace(conv, coupling="spline", bins=4, dequantization="variational", **patch)
    mlp, masked = PixelFlowConfig(network="mlp", steps=8, width=128), replace(flow, lr=1e-3)
    ddpm = TrainConfig(epochs=80, batch_size=128, lr=2e-3, clip=1.0, ema=0.995, early=0.25)
    tiny = VAEConfig(latent_dim=8, hidden=(256, 256), likelihood="gaussian", beta=1e-6)
    small = LatentDDPMConfig(vae=tiny, vae_train=replace(vae, clip=1000.0), width=256)
    latent = TrainConfig(epochs=300, lr=2e-3, clip=1.0, ema=0.995, early=0.25)
    return [
        *_part_a(2, (256, 256), 100, vae),
        Recipe("vae-grey", "VAE", "B", "dynamic", grey, vae),
        Recipe("vae-logistic", "VAE, logistic", "B", "raw", logistic, vae),
        Recipe("pixelflow", "Flow", "B", "raw", conv, flow),
        Recipe("pixelflow-spline", "Flow, splines", "B", "raw", spline, flow),
        Recipe("pixelflow-mlp", "Flow, MLPs", "B", "raw", mlp, masked),
        Recipe("ddpm", "DDPM", "B", "raw", DDPMConfig(widths=(32, 64)), ddpm),
        Recipe("vdm", "VDM", "B", "raw", DDPMConfig(widths=(32, 64), schedule="learned"), ddpm),
        Recipe("latent-ddpm", "Latent DDPM", "B", "raw", small, latent),
    ]


ON_GPU: dict[str, dict[str, Any]] = {
    "vae": {"epochs": 100, "batch_size": 512, "optimizer": "adamw", "lr": 4e-3, "bent": 1.0},
    "pixelflow": {
        "steps": 8,
        "width": 192,
        "bins": 8,
        "epochs": 48,
        "batch_size": 128,
        "optimizer": "adamw",
        "lr": 2e-3,
    },
    "ddpm": {
        "widths": [128, 256],
        "epochs": 80,
        "batch_size": 256,
        "ema": 0.9995,
        "early": 0.05,  # as the cpu preset's guide, of few epochs: one of a quarter guides badly
    },
    "latent": {
        "epochs": 200,
        "batch_size": 512,
        "lr": 2e-3,
        "early": 0.05,
        "vae_train": {"epochs": 100, "batch_size": 256, "lr": 3e-3, "bent": 1.0},
    },
}


def on_gpu(recipe: Recipe, dataset: str) -> Recipe:
    """A recipe of the built-in studies at the budget of the gpu preset: longer, in larger batches,
    flow and U-Net larger; small images, of which there is less to learn, five times as long and no
    more."""
    if dataset == "digits":
        return override(recipe, epochs=5 * recipe.train.epochs)
    return override(recipe, **ON_GPU[recipe.model.kind])


def recipes_for(dataset: str) -> dict[str, Recipe]:
    """The named recipes, in the size that suits the data set."""
    rows = digits_recipes() if dataset == "digits" else mnist_recipes()
    return {r.name: r for r in rows}


def override(recipe: Recipe, **values: Any) -> Recipe:
    """A recipe with settings replaced where they live: in it, in the model, in the training, in
    the VAE of a latent DDPM. Of a table, those are replaced that are given."""
    plain = to_dict(recipe)
    tables = (plain, plain["model"], plain["train"], plain["model"].get("vae", {}))

    def table_with(key: str) -> dict[str, Any] | None:
        return next((table for table in tables if key in table and key != "kind"), None)

    for key, value in values.items():
        if (table := table_with(key)) is None:
            allowed = sorted({k for table in tables for k in table} - {"model", "train", "kind"})
            raise UserError(f"{recipe.name} has no setting {key!r}; it has {', '.join(allowed)}")
        inner = value if isinstance(value, dict) else {}
        if twice := [k for k in values if k in inner and table_with(k) is table[key]]:
            raise UserError(
                f"{recipe.name}: {twice[0]} is given by itself and in {key}; leave one of them out"
            )
        merge(table, {key: value})
    name = str(plain["name"])  # the new one, by which errors are told if it can be one
    return validated(Recipe, plain, name if re.fullmatch(FOLDER, name) else recipe.name)


def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Replace old values by new ones, of a table only those that are given. Each table stays the
    same object: `override` finds settings in it afterwards."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            merge(old[key], value)
        else:
            old[key] = value


def chosen(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """A recipe with what a user asks for in the place of its own, all of which has a use."""
    found = override(recipe, **settings)
    check_needs(found.model, settings)
    return found


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON-ready plain data."""
    return TypeAdapter(Recipe).dump_python(recipe, mode="json")


def from_dict(plain: Any) -> Recipe:
    """The recipe of plain data; the first thing that is wrong is named in one sentence."""
    return validated(Recipe, plain, "recipe")


def asked_recipe(name: str, dataset: str, settings: dict[str, Any]) -> Recipe:
    """A built-in recipe by name with some settings replaced; "vae" is vae-PRIOR."""
    known = recipes_for(dataset)
    if name == "vae":
        name = f"vae-{settings.get('prior', 'gaussian')}"
    if name not in known:
        raise UserError(f"there is no recipe {name!r}; choose one of vae, {', '.join(known)}")
    prior = settings.get("prior")
    if prior and name.removeprefix("vae-") in TITLES and name != f"vae-{prior}":
        raise UserError(
            f"prior = {prior!r} is not that of {name}, in whose folder it would stand; train vae "
            f"with that prior, or leave it out"
        )
    return chosen(known[name], settings)
