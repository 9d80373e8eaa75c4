"""The table of part A: bounds on the likelihood of each prior, and its match with q(z)."""

import math
from typing import Any

from triptych.report.load import Recipe, Study, Summary
from triptych.report.tables import Table, behind, best_iwae, cells_of, column_of
from triptych.report.wording import KL, Span, capital, count, dataset_name, split_and_n


def likelihood_table(study: Study) -> Table | None:
    """Rows: the priors of part A. Columns: the bounds and the match, as far as they were scored."""
    recipes = study.part("A")
    columns = {m: column_of(study, recipes, m) for m in _metrics(study, recipes)}
    columns = {metric: column for metric, column in columns.items() if column}
    if at_its_limit(study):
        del columns["mutual-information"]
    if not columns:
        return None
    header, cells = [], []
    for metric, column in columns.items():
        header.append(_heading(metric))
        cells.append(cells_of(recipes, column))
    rows = [[recipe.title, *(c[i] for c in cells)] for i, recipe in enumerate(recipes)]
    return Table(["Model", *header], rows, _caption(study, columns))


def at_its_limit(study: Study) -> bool:
    """Whether all models reach log n, which the mutual information of n images cannot exceed: it
    then tells nothing of them, and KL(q(z)||p(z)) is the mean KL(q(z|x)||p(z)) less log n."""
    found = [study.score(r.name, "mutual-information") for r in study.part("A")]
    information = [score for score in found if score is not None]
    return bool(information) and all(
        s.mean > 0.99 * math.log(s.protocol.get("n", math.inf)) for s in information
    )


def _metrics(study: Study, recipes: list[Recipe]) -> list[str]:
    iwae = best_iwae(study, recipes)
    bounds = ["elbo", iwae] if iwae else ["elbo"]
    return [*bounds, "ais", "kl-aggregate", "mutual-information", "classifier-accuracy"]


def _heading(metric: str) -> str:
    fixed = {
        "kl-aggregate": KL,
        "mutual-information": "I(x; z)",
        "classifier-accuracy": "Told apart (level)",
    }
    return fixed.get(metric, metric.upper())


def _caption(study: Study, columns: dict[str, dict[str, Summary]]) -> list[Span]:
    recipes = study.part("A")
    protocol = next(iter(next(iter(columns.values())).values())).protocol
    text = f" {capital(dataset_name(str(protocol['dataset'])))}," if "dataset" in protocol else ""
    text += f" {split_and_n(protocol)}; "
    text += f"{behind(study, recipes, list(columns.values()))}. In nats"
    if "mutual-information" in columns:
        text += "; I: mutual information"
    spans: list[Span] = [{"strong": "Test-set log-likelihood and match."}, text]
    if "classifier-accuracy" in columns:
        told = ": a classifier's accuracy between q(z) and p(z) (its 95% level if they are equal)"
        spans += ["; told apart ", {"cite": "lopezpaz2017"}, told]
    for metric, column in columns.items():
        if metric == "ais" or metric.startswith("iwae-"):
            where = _on_some(next(iter(column.values())).protocol, protocol)
            source = "wu2017" if metric == "ais" else "burda2016"
            spans += [f"; {metric.upper()}{where}: ", {"cite": source}]
    return [*spans, "."]


def _on_some(own: dict[str, Any], protocol: dict[str, Any]) -> str:
    """Of which images a bound is, where they are not those of the table."""
    if "importance_images" in own:
        return f" (gain over the ELBO from {count(own['importance_images'])} images)"
    if own.get("n") == protocol.get("n"):
        return ""
    return f" on {count(own['n'])} images"
