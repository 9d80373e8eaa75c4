"""A study from a file: a user's own, in TOML (docs/studies.md says what may stand in it), or one
that was run, from its study.json."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from triptych.data import check_name
from triptych.data.own import OWN_NAME
from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study.configs import PixelFlowConfig, VAEConfig
from triptych.study.grid import MOST_SEEDS, Plan, Study
from triptych.study.recipes import TITLES, Recipe, chosen, recipes_for
from triptych.study.store import of_this_version
from triptych.validation import validated

NAME = rf"^{OWN_NAME}$"
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]
NumberOfSeeds = Seeds | Annotated[int, Field(ge=1, le=MOST_SEEDS)]


@dataclass(frozen=True)
class _File:
    """The tables of a study file; see docs/studies.md."""

    recipe: Annotated[list[dict[str, Any]], Field(min_length=1)]
    name: Annotated[str, Field(pattern=NAME)] | None = None
    dataset: str = "digits"
    seeds: NumberOfSeeds = 3
    edition: Literal["2024", "2026"] = "2024"
    evaluation: Evaluation = field(default_factory=Evaluation)


@dataclass(frozen=True)
class _Record:
    """What study.json has beside its recipes, as far as it is not for the report alone."""

    name: Annotated[str, Field(pattern=NAME)]
    dataset: str
    evaluation: Evaluation
    edition: Literal["2024", "2026"] = "2024"


def from_json(path: Path, dataset: str | None = None) -> Study:
    """The study that a study.json is of, every setting as it stands there, whatever the recipes of
    that name have become; on its own data set unless another is given."""
    if not path.exists():
        raise _missing(path)
    plain = of_this_version(path)
    rows = plain.get("recipes") if isinstance(plain, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is no study.json; name the one in the folder of a study")
    asked = validated(_Record, plain, str(path))
    check_name(dataset or asked.dataset)
    plans = tuple(_recorded(row, path) for row in rows)
    _check_together(plans, asked.evaluation, path)
    return Study(asked.name, dataset or asked.dataset, plans, asked.evaluation, asked.edition)


def _recorded(row: dict[str, Any], path: Path) -> Plan:
    """A recipe without what study.json says of it for the report, and its seeds."""
    plain = {f.name: row[f.name] for f in fields(Recipe) if f.name in row}
    seeds = validated(Seeds, row.get("seeds"), f"{path}: seeds")
    return Plan(validated(Recipe, plain, str(path)), seeds)


def from_toml(path: Path, dataset: str | None = None) -> Study:
    """A user's study: recipes, each a built-in one (`base`) with settings of its own, on the file's
    data set unless another is given."""
    asked = _checked(_read(path), path)
    dataset = dataset or asked.dataset
    check_name(dataset)
    seeds = tuple(range(asked.seeds)) if isinstance(asked.seeds, int) else asked.seeds
    plans = tuple(Plan(_derived(row, dataset, path), seeds) for row in asked.recipe)
    _check_together(plans, asked.evaluation, path)
    return Study(asked.name or _name_of(path), dataset, plans, asked.evaluation, asked.edition)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file that can") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a TOML file ({error}); fix it") from None


def _missing(path: Path) -> UserError:
    return UserError(f"{path} does not exist; name a study file, or one of the built-in")


def _checked(plain: dict[str, Any], path: Path) -> _File:
    """The file's tables, and what is often wrong with them in words of their own."""
    unknown = sorted(plain.keys() - {f.name for f in fields(_File)})
    if unknown:
        raise UserError(
            f"{path} has an unknown key {unknown[0]!r}; a study has name, dataset, seeds, edition, "
            f"[evaluation] and [[recipe]]"
        )
    try:
        validated(NumberOfSeeds, plain.get("seeds", 3), str(path))
    except UserError:
        raise UserError(
            f"{path}: seeds = {plain['seeds']!r} cannot be used; choose 1 to {MOST_SEEDS}, or a "
            f"list of so many different numbers from 0"
        ) from None
    if not isinstance(plain.get("recipe"), list) or not plain["recipe"]:
        raise UserError(
            f"{path} has no [[recipe]]; write one or more, in double brackets, each with base = ..."
        )
    return validated(_File, plain, str(path))


def _check_together(plans: Sequence[Plan], how: Evaluation, path: Path) -> None:
    """UserError for a name, a title or a seed that is there twice, for bounds of different kinds of
    images, which would share a table, and for a temperature where a model has none."""
    recipes = [plan.recipe for plan in plans]
    for seeds in (list(plan.seeds) for plan in plans):
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{path}: seeds = {seeds} has one of them twice; name each once")
    if twice := _repeated([r.name for r in recipes]):
        raise UserError(f"{path} has two recipes named {twice!r}; give one of them another name")
    if twice := _repeated([(r.part, r.title) for r in recipes]):
        raise UserError(
            f"{path} has two recipes with the title {twice[1]!r}; give one another: title = ..."
        )
    kinds = {_bounded(r): r.name for r in recipes if r.part == "A"}
    if len(kinds) > 1:
        said = " and ".join(f"{name} has {kind}" for kind, name in kinds.items())
        raise UserError(
            f"{path}: {said}, and one table cannot hold bounds of both; give each a study of its "
            f'own, or one of them part = "B"'
        )
    others = [r.name for r in recipes if not isinstance(r.model, PixelFlowConfig)]
    if how.temperature != 1 and others:
        raise UserError(
            f"{path}: temperature = {how.temperature:g} applies to pixel flows, and {others[0]} is "
            f"none; choose 1, or a study of pixel flows alone"
        )


def _bounded(recipe: Recipe) -> str:
    """What the bounds of a VAE are of."""
    if recipe.view != "raw":
        return f"{recipe.view} images"
    integers = isinstance(recipe.model, VAEConfig) and recipe.model.likelihood == "logistic"
    return "probabilities of integers" if integers else "densities of grey values"


def _repeated(names: Sequence[Any]) -> Any:
    """The first that is there more than once, if one is."""
    return next((name for name in names if names.count(name) > 1), None)


def _name_of(path: Path) -> str:
    """A study without a name has its file's, which is to be a folder."""
    if not re.fullmatch(NAME, path.stem):
        raise UserError(
            f"{path} cannot name a folder; write name = ... in it, of letters, digits, - and _"
        )
    return path.stem


def _derived(row: dict[str, Any], dataset: str, path: Path) -> Recipe:
    known, settings = recipes_for(dataset), dict(row)
    base = settings.pop("base", None)
    if not isinstance(base, str) or base not in known:
        raise UserError(f"{path}: a recipe needs base = one of {', '.join(known)}, not {base!r}")
    if "name" in settings:  # the base's title is the base's
        settings.setdefault("title", settings["name"])
    try:
        found = chosen(known[base], settings)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return found if "title" in settings else _retitled(found, known[base])


def _retitled(recipe: Recipe, base: Recipe) -> Recipe:
    """With the name of its own prior for a title, where the base has that of another."""
    old, new = base.model, recipe.model
    of_prior = isinstance(old, VAEConfig) and base.title == TITLES[old.prior]
    if of_prior and isinstance(new, VAEConfig):
        return replace(recipe, title=TITLES[new.prior])
    return recipe
