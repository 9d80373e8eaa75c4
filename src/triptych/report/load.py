"""study.json and results.json, read back as plain values. Nothing here knows a model."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from triptych.errors import UserError
from triptych.train.files import read_json


@dataclass(frozen=True)
class Recipe:
    """One model of the study, as it was asked for. `part` is the assignment's: "A" or "B"; `model`
    and `train` are its settings."""

    name: str
    title: str
    part: str
    family: str
    prior: str | None
    view: str
    latent_dim: int | None
    epochs: float | int
    parameters: int
    architecture: str
    seeds: list[int] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """A metric of one model over its training runs; `std` is over runs, `mc_std` that of the
    estimator and `image_std` that of the images. `levels` are 95% of each run's null."""

    model: str
    metric: str
    unit: str
    mean: float
    std: float | None
    n_seeds: int
    seeds: list[int]
    values: list[float]
    interval95: list[float] | None = None
    mc_std: float | None = None
    image_std: float | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    levels: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """A value for each seed, and a level for each or for none."""
        if not 0 < len(self.values) == len(self.seeds):
            raise ValueError(f"{len(self.values)} values of {len(self.seeds)} seeds")
        if self.levels and len(self.levels) != len(self.values):
            raise ValueError(f"{len(self.levels)} levels of {len(self.values)} values")


@dataclass(frozen=True)
class Difference:
    """`a` minus `b` in one metric, paired by seed."""

    metric: str
    unit: str
    a: str
    b: str
    mean: float
    n_seeds: int
    seeds: list[int]
    std: float | None = None
    interval95: list[float] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A run that gave no score, and why."""

    model: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Study:
    """study.json and results.json of one folder."""

    folder: Path
    name: str
    dataset: str
    seeds: list[int]
    recipes: list[Recipe]
    scores: list[Summary]
    differences: list[Difference] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    edition: str = "2024"

    def part(self, part: str) -> list[Recipe]:
        """The recipes of part "A" or "B", in the study's order."""
        return [recipe for recipe in self.recipes if recipe.part == part]

    def score(self, model: str, metric: str) -> Summary | None:
        """The summary of one metric of one model, None when it was not scored.

        UserError where the model's runs were scored in several ways: no one number is theirs.
        """
        found = [s for s in self.scores if s.model == model and s.metric == metric]
        if len(found) > 1:
            raise UserError(
                f"{metric} of {model} was measured under {len(found)} protocols; delete the "
                f"scores.json of its runs and run the study again, which judges them all alike"
            )
        return found[0] if found else None

    def difference(self, metric: str, a: str, b: str) -> Difference | None:
        """a - b, whichever way round it was stored; None when it was not."""
        for d in self.differences:
            if d.metric == metric and (d.a, d.b) == (a, b):
                return d
            if d.metric == metric and (d.a, d.b) == (b, a):
                return _turned(d)
        return None

    def first_run(self, recipe: Recipe, file: str) -> tuple[int, Path] | None:
        """The first seed, in the order asked for, whose run holds `file`; never chosen by hand."""
        paths = ((seed, folder / file) for seed, folder in self.runs(recipe))
        return next(((seed, path) for seed, path in paths if path.is_file()), None)

    def runs(self, recipe: Recipe) -> list[tuple[int, Path]]:
        """(seed, folder) of each run of a recipe that was asked for, whether it is there or not."""
        folder, seeds = self.folder / recipe.name, recipe.seeds or self.seeds
        return [(seed, folder / f"seed-{seed}") for seed in seeds]

    def scored_runs(self) -> list[Path]:
        """The folders of the runs whose scores are in results.json, whether they are there or not;
        what figures draw is in them."""
        scored = {(s.model, seed) for s in self.scores for seed in s.seeds}
        return [
            folder
            for recipe in self.recipes
            for seed, folder in self.runs(recipe)
            if (recipe.name, seed) in scored
        ]


def read_study(folder: Path) -> Study:
    """Raises UserError naming the file when one is missing, damaged or of another schema."""
    if (folder / "config.json").is_file():
        raise UserError(f"{folder} is a run; name the folder of its study")
    if folder.is_file():
        raise UserError(f"{folder} is a file; name the folder of a study that has run")
    asked = _json(folder / "study.json")
    if not (folder / "results.json").exists():
        raise UserError(
            f"{folder} is a study without results.json, not finished yet; finish it first, with "
            f"the command that began it"
        )
    results = _json(folder / "results.json")
    try:
        # Keys that a later writer has added are no reason to refuse a study, and are left out.
        return TypeAdapter(Study).validate_python(results | asked | {"folder": folder})
    except ValidationError as error:
        reason = ", ".join(str(error).splitlines()[:3])
        raise UserError(
            f"study.json or results.json in {folder} lacks what a report needs ({reason}): "
            "run the study again to write them anew."
        ) from error


def _turned(d: Difference) -> Difference:
    interval = None if d.interval95 is None else [-d.interval95[1], -d.interval95[0]]
    return replace(d, a=d.b, b=d.a, mean=-d.mean, interval95=interval)


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != 1:
        raise UserError(
            f"{path} is not of schema 1, which this version reads: run the study again."
        )
    return content
