"""What a study is: which recipes, which seeds, judged how; and what study.json says of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study.build import build
from triptych.study.configs import LatentDDPMConfig, ModelConfig
from triptych.study.describe import describe
from triptych.study.recipes import Recipe, to_dict
from triptych.study.store import SCHEMA

MOST_SEEDS = 1000


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


def with_seeds(study: Study, n: int | None) -> Study:
    """The study with n seeds of every model, if a number is asked for: the first of its own, then
    0, 1, 2, .. as far as they are not among these."""
    if n is None:
        return study
    if not 1 <= n <= MOST_SEEDS:
        raise UserError(f"--seeds {n} cannot be run; choose one of 1 to {MOST_SEEDS}")

    def first(own: tuple[int, ...]) -> tuple[int, ...]:
        others = (seed for seed in range(len(own) + n) if seed not in own)
        return (*own, *others)[:n]

    return replace(study, plans=tuple(Plan(p.recipe, first(p.seeds)) for p in study.plans))


@contextmanager
def naming(recipe: Recipe) -> Iterator[None]:
    """Put the recipe's name before what is refused within: a study has several."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{recipe.name}: {error}") from None


def study_json(study: Study, shape: tuple[int, int, int], levels: int) -> dict[str, Any]:
    """What study.json holds: the request, resolved, with what the report says of each model."""
    recipes = []
    for plan in study.plans:
        recipe, config = plan.recipe, plan.recipe.model
        with naming(recipe):
            parts = [build(config, shape, levels)]
            if isinstance(config, LatentDDPMConfig):
                # The model itself has the VAE's weights as buffers, as they stay fixed.
                parts.append(build(config.vae, shape, levels))
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
        "schema": SCHEMA,
        "name": study.name,
        "dataset": study.dataset,
        "levels": levels,
        "shape": list(shape),
        "seeds": study.seeds,
        "edition": study.edition,
        "evaluation": asdict(study.evaluation),
        "recipes": recipes,
    }


def _family(config: ModelConfig) -> str:
    """What the report calls a model's kind: a VDM is a DDPM's network on another chain."""
    return "vdm" if getattr(config, "schedule", "") == "learned" else config.kind
