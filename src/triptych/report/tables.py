"""What the report's tables are made of: a column holds scores of one protocol."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from triptych.errors import UserError
from triptych.report.load import Recipe, Study, Summary
from triptych.report.wording import Span, called, counted, decimals_for, listed, number, spread
from triptych.study.results import free_keys

DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """Header and rows of plain text; the caption says what one row cannot."""

    header: list[str]
    rows: list[list[str]]
    caption: list[Span]


def _require_one_protocol(scores: Sequence[Summary]) -> None:
    """UserError names the first of the scores of one metric whose protocol is another."""
    for other in scores:
        first = scores[0]
        free = free_keys(first.metric, first.protocol) | free_keys(other.metric, other.protocol)
        keys = sorted((first.protocol.keys() | other.protocol.keys()) - free)
        for key in keys:
            mine, theirs = first.protocol.get(key), other.protocol.get(key)
            if mine != theirs:
                way = "evaluate both the same way"
                if key in ("p", "view"):  # of what, which is the model's, not the evaluation's
                    way = "give each a study of its own; report.html and figures/ show both"
                raise UserError(
                    f"{first.metric} of {first.model} and of {other.model} cannot stand in one "
                    f"column: their protocols differ in {key} ({mine!r} and {theirs!r}); {way}."
                )


def best_iwae(study: Study, recipes: Sequence[Recipe]) -> str | None:
    """The importance-weighted bound with the most samples that any of the recipes has."""
    names = {r.name for r in recipes}
    found = {s.metric for s in study.scores if s.model in names}
    sizes = [int(m[5:]) for m in found if re.fullmatch(r"iwae-\d+", m)]
    return f"iwae-{max(sizes)}" if sizes else None


def column_of(study: Study, recipes: Sequence[Recipe], metric: str) -> dict[str, Summary]:
    """One score of each recipe that has it, by the recipe's name."""
    found = [study.score(recipe.name, metric) for recipe in recipes]
    present = [score for score in found if score is not None]
    _require_one_protocol(present)
    return {score.model: score for score in present}


def cells_of(recipes: list[Recipe], column: dict[str, Summary]) -> list[str]:
    """The column as text, a dash where there is no score; what is compared with a null has its
    level behind it. Decimals follow the smallest spread, or, without spreads, smallest value."""
    scores = list(column.values())
    small = [s.std for s in scores if s.std is not None] or [s.mean for s in scores]
    nulls = [float(s.protocol["null95"]) for s in scores if "null95" in s.protocol]
    fine = not scores[0].metric.startswith("fid") and scores[0].unit != "nats"
    decimals = decimals_for(small + nulls, most=3 if fine else 2)
    cells = []
    for recipe in recipes:
        score = column.get(recipe.name)
        text = DASH if score is None else spread(score.mean, score.std, decimals)
        if score is not None and "null95" in score.protocol:
            text += f" ({number(float(score.protocol['null95']), decimals)})"
        cells.append(text)
    return cells


def behind(study: Study, recipes: Sequence[Recipe], columns: Sequence[dict[str, Summary]]) -> str:
    """How many runs stand behind the numbers, row by row where rows differ."""
    sizes = {}
    for recipe in recipes:
        found = [c[recipe.name].n_seeds for c in columns if recipe.name in c]
        if found:
            sizes[called(study, recipe)] = min(found)
    if set(sizes.values()) == {1}:
        return "one run each" if len(sizes) > 1 else "one run"
    about = "mean \N{PLUS-MINUS SIGN} standard deviation over "
    if len(set(sizes.values())) == 1:
        return about + counted(next(iter(sizes.values())), "run")
    return about + listed([f"{counted(n, 'run')} ({title})" for title, n in sizes.items()])
