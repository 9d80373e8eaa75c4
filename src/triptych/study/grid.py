"""Studies: which recipes, which seeds, judged how. Built in by name, or read from a TOML file."""

import re
import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from triptych.data import SOURCES
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study.build import build
from triptych.study.configs import LatentDDPMConfig, ModelConfig, PixelFlowConfig
from triptych.study.describe import describe
from triptych.study.recipes import (
    BRIEF_PRIORS,
    Recipe,
    on_gpu,
    override,
    recipes_for,
    to_dict,
    validated,
)

Preset = Literal["cpu", "gpu"]
MOST_SEEDS = 1000
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
BETAS = {"1e-6": 1e-6, "1e-3": 1e-3, "1": 1.0}
STUDIES = ("demo", "brief-2024", "brief-2026", "priors")
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Plan:
    """A recipe with the seeds it is trained with."""

    recipe: Recipe
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """Everything that was asked, resolved: study.json is this."""

    name: str
    dataset: str
    plans: tuple[Plan, ...]
    evaluation: Evaluation = field(default_factory=Evaluation)
    edition: str = "2024"

    @property
    def seeds(self) -> list[int]:
        """All seeds that occur."""
        return sorted({s for plan in self.plans for s in plan.seeds})


def brief_recipes(dataset: str) -> list[Recipe]:
    """What the assignment asks for: its three priors, and the models of part B; the digits, quick
    to learn, with the simpler flow."""
    known, flow = recipes_for(dataset), "pixelflow" if dataset == "digits" else "pixelflow-spline"
    names = [*(f"vae-{prior}" for prior in BRIEF_PRIORS), "vae-grey", flow, "ddpm"]
    return [known[name] for name in names]


def demo() -> Study:
    """The assignment, small, on the embedded digits."""
    recipes = brief_recipes("digits")
    plans = [Plan(r, (0, 1, 2) if r.part == "A" else (0, 1)) for r in recipes]
    return Study("demo", "digits", tuple(plans))


def brief_2024(preset: Preset, dataset: str) -> Study:
    """The 2024 assignment: three priors x 3 seeds, and a VAE, a flow and a DDPM for their samples.

    The cpu preset fits an afternoon on two cores. The gpu preset trains longer, its flow and DDPM
    are larger (`recipes.on_gpu`), the DDPM draws in more steps and is guided less, and there are
    five seeds of the VAEs and two of flow and DDPM.
    """
    recipes = brief_recipes(dataset)
    how = Evaluation(sampler="dpm-solver++", steps=20, eta=1.0, guidance=2.0, tradeoff_images=1000)
    if preset == "cpu":
        plans = [Plan(r, (0, 1, 2) if r.part == "A" else (0,)) for r in recipes]
        how = replace(how, importance_images=1000, elbo_samples=20, bound_draws=2)
        return Study("brief-2024", dataset, tuple(plans), how)
    few, many = (0, 1), (0, 1, 2, 3, 4)
    plans = [Plan(on_gpu(r, dataset), many if r.part == "A" else few) for r in recipes]
    how = replace(how, importance_samples=5000, bound_draws=16, steps=40, guidance=1.25)
    return Study("brief-2024", dataset, tuple(plans), how)


def brief_2026(preset: Preset, dataset: str) -> Study:
    """The 2026 assignment: the same priors; and a VAE, a DDPM, and latent DDPMs on beta-VAEs of
    several beta for part B."""
    before, latent = brief_2024(preset, dataset), recipes_for(dataset)["latent-ddpm"]
    ddpm, grey = (next(p for p in before.plans if p.recipe.name == n) for n in ("ddpm", "vae-grey"))
    latent = latent if preset == "cpu" else on_gpu(latent, dataset)
    latents = [
        override(
            latent,
            name=f"latent-ddpm-{word}",
            title=f"Latent, \N{GREEK SMALL LETTER BETA} = {word}",
            beta=beta,
        )
        for word, beta in BETAS.items()
    ]
    part_a = [p for p in before.plans if p.recipe.part == "A"]
    chains = [Plan(recipe, ddpm.seeds) for recipe in latents]
    plans = (*part_a, ddpm, *chains, grey)
    return Study("brief-2026", dataset, plans, before.evaluation, edition="2026")


def priors(preset: Preset, dataset: str) -> Study:
    """All priors on the course's network, five seeds each, same budget and data order; a
    hierarchical prior has two levels of the others' dimensions, and an encoder for each.

    The gpu preset trains longer (`recipes.on_gpu`) and takes IWAE-5000 on all test images.
    """
    recipes = [r for r in recipes_for(dataset).values() if r.part == "A"]
    how = Evaluation(importance_samples=5000, importance_images=1000, elbo_samples=20)
    if preset == "gpu":
        recipes = [on_gpu(r, dataset) for r in recipes]
        how = Evaluation(importance_samples=5000)
    return Study("priors", dataset, tuple(Plan(r, (0, 1, 2, 3, 4)) for r in recipes), how)


def named_study(name: str, preset: Preset, dataset: str | None) -> Study:
    """A built-in study, or the one that a TOML file describes."""
    if name == "demo":
        return demo()
    if name == "priors":
        return priors(preset, checked_dataset(dataset or "mnist"))
    if name == "brief-2024":
        return brief_2024(preset, checked_dataset(dataset or "mnist"))
    if name == "brief-2026":
        return brief_2026(preset, checked_dataset(dataset or "mnist"))
    if name.endswith(".toml"):
        study = from_toml(Path(name))
        return study if dataset is None else replace(study, dataset=checked_dataset(dataset))
    raise UserError(
        f"there is no study {name!r}; name one of {', '.join(STUDIES)}, or a .toml file"
    )


def with_seeds(study: Study, n: int | None) -> Study:
    """The study with the seeds 0 .. n-1 of every model, if a number is asked for."""
    if n is None:
        return study
    if not 1 <= n <= MOST_SEEDS:
        raise UserError(f"--seeds {n} cannot be run; choose one of 1 to {MOST_SEEDS}")
    return replace(study, plans=tuple(Plan(p.recipe, tuple(range(n))) for p in study.plans))


def checked_dataset(name: str) -> str:
    """The name, if a data set has it."""
    if name not in SOURCES:
        raise UserError(f"there is no data set {name!r}; choose one of {', '.join(SOURCES)}")
    return name


NumberOfSeeds = Seeds | Annotated[int, Field(ge=1, le=MOST_SEEDS)]


@dataclass(frozen=True)
class _File:
    """The tables of a study file; see docs/studies.md."""

    recipe: Annotated[list[dict[str, Any]], Field(min_length=1)]
    name: Annotated[str, Field(pattern=NAME)] | None = None
    dataset: str = "digits"
    seeds: NumberOfSeeds = 3
    evaluation: Evaluation = field(default_factory=Evaluation)


def from_toml(path: Path) -> Study:
    """A user's study: recipes, each a built-in one (`base`) with settings of its own."""
    try:
        plain = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; name a study file, or one of the built-in"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not a TOML file ({error}); mend it") from None
    unknown = sorted(plain.keys() - {"recipe", "name", "dataset", "seeds", "evaluation"})
    if unknown:
        raise UserError(
            f"{path} has an unknown key {unknown[0]!r}; a study has name, dataset, seeds, "
            f"[evaluation] and [[recipe]]"
        )
    try:
        TypeAdapter(NumberOfSeeds).validate_python(plain.get("seeds", 3))
    except ValidationError:
        raise UserError(
            f"{path}: seeds = {plain['seeds']!r} cannot be used; choose 1 to {MOST_SEEDS}, or a "
            f"list of so many different numbers from 0"
        ) from None
    asked: _File = validated(_File, plain, str(path))
    dataset = checked_dataset(asked.dataset)
    seeds = tuple(range(asked.seeds)) if isinstance(asked.seeds, int) else asked.seeds
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: seeds = {list(seeds)} has one of them twice; name each once")
    recipes = [_derived(row, dataset, path) for row in asked.recipe]
    names = [r.name for r in recipes]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise UserError(f"{path} has two recipes named {twice!r}; give one of them another name")
    others = [r.name for r in recipes if not isinstance(r.model, PixelFlowConfig)]
    if asked.evaluation.temperature != 1 and others:
        raise UserError(
            f"{path}: temperature = {asked.evaluation.temperature:g} is of pixel flows, and "
            f"{others[0]} is none; choose 1, or a study of pixel flows alone"
        )
    plans = tuple(Plan(r, seeds) for r in recipes)
    return Study(asked.name or _name_of(path), dataset, plans, asked.evaluation)


def _family(config: ModelConfig) -> str:
    """What the report calls a model's kind: a VDM is a DDPM's network on another chain."""
    return "vdm" if getattr(config, "schedule", "") == "learned" else config.kind


def _name_of(path: Path) -> str:
    """A study without a name has its file's, which is to be a folder."""
    if not re.fullmatch(NAME, path.stem):
        raise UserError(f"{path} is no name for a folder; write name = ... in it")
    return path.stem


def _derived(row: dict[str, Any], dataset: str, path: Path) -> Recipe:
    known, settings = recipes_for(dataset), dict(row)
    base = settings.pop("base", None)
    if not isinstance(base, str) or base not in known:
        raise UserError(f"{path}: a recipe needs base = one of {', '.join(known)}, not {base!r}")
    try:
        return override(known[base], **settings)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def study_json(study: Study, shape: tuple[int, int, int], levels: int) -> dict[str, Any]:
    """What study.json holds: the request, resolved, with what the report says of each model."""
    recipes = []
    for plan in study.plans:
        recipe, config = plan.recipe, plan.recipe.model
        parts = [build(config, shape, levels)]
        if isinstance(config, LatentDDPMConfig):
            parts.append(build(config.vae, shape, levels))  # in the model itself it is still
        recipes.append(
            {
                **to_dict(recipe),
                "family": _family(config),
                "prior": getattr(config, "prior", None),
                "latent_dim": getattr(getattr(config, "vae", config), "latent_dim", None),
                "epochs": recipe.train.epochs,
                "seeds": list(plan.seeds),
                "parameters": sum(p.numel() for part in parts for p in part.parameters()),
                "architecture": describe(recipe, shape),
            }
        )
    return {
        "schema": 1,
        "name": study.name,
        "dataset": study.dataset,
        "levels": levels,
        "shape": list(shape),
        "seeds": study.seeds,
        "edition": study.edition,
        "evaluation": asdict(study.evaluation),
        "recipes": recipes,
    }
