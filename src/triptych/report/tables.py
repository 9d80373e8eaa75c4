"""The report's two tables. A column holds scores of one protocol, or there is no table."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triptych.errors import UserError
from triptych.report.load import Recipe, Study, Summary
from triptych.report.wording import (
    KL,
    NO_BREAK_SPACE,
    Span,
    bare,
    called,
    capital,
    count,
    dataset_name,
    decimals_for,
    listed,
    number,
    runs,
    split_and_n,
    spread,
    two_digits,
    way_of_sampling,
)
from triptych.study.results import free_keys

SOURCES = {"ais": "wu2017"}
WAYS = {
    "DDIM": "song2021",
    "DPM-Solver++": "lu2022",
    "Heun": "karras2022",
    "autoguidance": "karras2024",
}
DASH = "\N{EN DASH}"
PRIOR_FID = "own prior"


@dataclass(frozen=True)
class Table:
    """Header and rows of plain text; the caption says what one row cannot."""

    header: list[str]
    rows: list[list[str]]
    caption: list[Span]


def require_one_protocol(scores: Sequence[Summary]) -> dict[str, Any]:
    """The protocol that the scores of one metric share; UserError names the first that differs."""
    first = scores[0]
    for other in scores[1:]:
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
    return first.protocol


def likelihood_table(study: Study) -> Table | None:
    """Rows: the priors of part A. Columns: the bounds and the match, as far as they were scored."""
    recipes = study.part("A")
    columns = {m: _column(study, recipes, m) for m in _likelihood_metrics(study, recipes)}
    columns = {metric: column for metric, column in columns.items() if column}
    if at_its_limit(study):
        del columns["mutual-information"]
    if not columns:
        return None
    header, cells = [], []
    for metric, column in columns.items():
        header.append(_likelihood_heading(metric))
        cells.append(_cells(recipes, column))
    rows = [[recipe.title, *(c[i] for c in cells)] for i, recipe in enumerate(recipes)]
    return Table(["Model", *header], rows, _likelihood_caption(study, columns))


def sampling_table(study: Study) -> Table | None:
    """Rows: the models of part B. Columns: bits/dim, FID and its real-against-real floor; or, where
    there are latent DDPMs, FID, FID of their VAE's own prior, and samples a second."""
    recipes = study.part("B")
    names = ("bpd", "fid", "fid-prior", "samples-per-second")
    bpd, fid, prior, speed = (_column(study, recipes, m) for m in names)
    if not bpd and not fid:
        return None
    columns: dict[str, list[str]] = {}
    if bpd and not prior:
        columns["bits/dim"] = _cells(recipes, bpd)
    if fid:
        columns["FID"] = _cells(recipes, fid)
    if fid and not prior:
        columns["floor"] = _floors(recipes, fid)
    if prior:
        columns[PRIOR_FID] = _cells(recipes, prior)
        columns["1/s"] = _speeds(recipes, speed)
    rows = [[recipe.title, *(c[i] for c in columns.values())] for i, recipe in enumerate(recipes)]
    caption = _sampling_caption(study, bpd, fid, speed if prior else None)
    return Table(["Model", *columns], rows, caption)


def best_iwae(study: Study, recipes: Sequence[Recipe]) -> str | None:
    """The importance-weighted bound with the most samples that any of the recipes has."""
    names = {r.name for r in recipes}
    found = {s.metric for s in study.scores if s.model in names}
    sizes = [int(m[5:]) for m in found if re.fullmatch(r"iwae-\d+", m)]
    return f"iwae-{max(sizes)}" if sizes else None


def _likelihood_metrics(study: Study, recipes: list[Recipe]) -> list[str]:
    iwae = best_iwae(study, recipes)
    bounds = ["elbo", iwae] if iwae else ["elbo"]
    return [*bounds, "ais", "kl-aggregate", "mutual-information", "energy-distance"]


def _likelihood_heading(metric: str) -> str:
    fixed = {
        "elbo": "ELBO",
        "ais": "AIS",
        "kl-aggregate": KL,
        "mutual-information": "Mutual inf.",
        "energy-distance": "Energy dist. (null)",
    }
    return fixed.get(metric, metric.upper())


def _column(study: Study, recipes: list[Recipe], metric: str) -> dict[str, Summary]:
    found = [study.score(recipe.name, metric) for recipe in recipes]
    present = [score for score in found if score is not None]
    if present:
        require_one_protocol(present)
    return {score.model: score for score in present}


def _cells(recipes: list[Recipe], column: dict[str, Summary]) -> list[str]:
    # A column's decimals follow its smallest spread, or, without spreads, its smallest value.
    scores = list(column.values())
    small = [s.std for s in scores if s.std is not None] or [s.mean for s in scores]
    nulls = [float(s.protocol["null95"]) for s in scores if "null95" in s.protocol]
    decimals = decimals_for(small + nulls, most=3 if scores[0].metric != "fid" else 2)
    cells = []
    for recipe in recipes:
        score = column.get(recipe.name)
        text = DASH if score is None else spread(score.mean, score.std, decimals)
        if score is not None and "null95" in score.protocol:
            text += f" ({number(float(score.protocol['null95']), decimals)})"
        cells.append(text)
    return cells


def _floors(recipes: list[Recipe], fid: dict[str, Summary]) -> list[str]:
    floors = [fid[r.name].protocol.get("floor") if r.name in fid else None for r in recipes]
    return [DASH if floor is None else number(float(floor), 2) for floor in floors]


def _speeds(recipes: list[Recipe], column: dict[str, Summary]) -> list[str]:
    rates = [column[r.name].mean if r.name in column else None for r in recipes]
    return [DASH if v is None else two_digits(v) for v in rates]


def _runs(study: Study, recipes: Sequence[Recipe], columns: Sequence[dict[str, Summary]]) -> str:
    """How many runs stand behind the numbers, row by row where rows differ."""
    sizes = {}
    for recipe in recipes:
        found = [c[recipe.name].n_seeds for c in columns if recipe.name in c]
        if found:
            sizes[called(study, recipe)] = min(found)
    if set(sizes.values()) == {1}:
        return "one run each"
    about = "mean \N{PLUS-MINUS SIGN} standard deviation over "
    if len(set(sizes.values())) == 1:
        return about + runs(next(iter(sizes.values())))
    return about + listed([f"{runs(n)} ({title})" for title, n in sizes.items()])


def _likelihood_caption(study: Study, columns: dict[str, dict[str, Summary]]) -> list[Span]:
    recipes = study.part("A")
    protocol = next(iter(next(iter(columns.values())).values())).protocol
    dataset = f"{dataset_name(str(protocol['dataset']))}, " if "dataset" in protocol else ""
    text = f" {dataset}{split_and_n(protocol)}; "
    text += f"{_runs(study, recipes, list(columns.values()))}. In nats"
    if "energy-distance" in columns:
        text += "; null: the energy distance's 95% level when q(z) = p(z)"
    spans: list[Span] = [{"strong": "Test-set log-likelihood and match."}, text]
    for metric, column in columns.items():
        if metric in SOURCES or metric.startswith("iwae-"):
            own = next(iter(column.values())).protocol
            where = _on_some(own, protocol)
            spans += [f"; {metric.upper()}{where}: ", {"cite": SOURCES.get(metric, "burda2016")}]
    return [*spans, "."]


def _on_some(own: dict[str, Any], protocol: dict[str, Any]) -> str:
    """Of which images a bound is, where they are not those of the table."""
    if "importance_images" in own:
        return f" (gain over the ELBO from {count(own['importance_images'])} images)"
    if own.get("n") == protocol.get("n"):
        return ""
    return f" on {count(own['n'])} images"


def at_its_limit(study: Study) -> bool:
    """The mutual information of n images cannot exceed log n: where all models reach it, it tells
    nothing of them, and KL(q(z)||p(z)) is the average divergence less log n."""
    found = [study.score(r.name, "mutual-information") for r in study.part("A")]
    information = [score for score in found if score is not None]
    return bool(information) and all(
        s.mean > 0.99 * math.log(s.protocol.get("n", math.inf)) for s in information
    )


def _sampling_caption(
    study: Study, bpd: dict[str, Summary], fid: dict[str, Summary], speed: dict[str, Summary] | None
) -> list[Span]:
    """`speed`: where samples a second stand in the table and bits/dim do not, else None."""
    recipes = study.part("B")
    spans: list[Span] = [
        {"strong": "Sampling."},
        f" {capital(_runs(study, recipes, [bpd, fid]))}.",
    ]
    if fid:
        protocol = next(iter(fid.values())).protocol
        spans += [
            " FID ",
            {"cite": "heusel2017"},
            f": {split_and_n(protocol)}{_features(protocol)}",
        ]
        floors = [floor for floor in _floors(recipes, fid) if floor != DASH]
        value = "" if speed is None else f", {listed(floors[:1])}"
        spans.append(f"; floor: real against real{value}.")
        spans += _samplers(study, fid)
    if speed is not None:
        own = f" {capital(PRIOR_FID)}: FID with the VAE's; 1/s: samples a second"
        spans.append(f"{own}{_machine(speed)}.")
    bounds = [
        f"{bare(study, r)}: {_bound(bpd[r.name], speed is not None)}"
        for r in recipes
        if r.name in bpd and "bound" in bpd[r.name].protocol
    ]
    if bounds:
        lead = "Bits/dim are upper bounds" if speed is None else "Upper bounds on bits/dim"
        spans.append(f" {lead} ({'; '.join(bounds)}).")
    return spans


def _machine(speed: dict[str, Summary]) -> str:
    """What the clock stood beside."""
    clock = next((s.protocol for s in speed.values()), {})
    if "device" not in clock:
        return ""
    threads = "1 thread" if clock["threads"] == 1 else f"{clock['threads']} threads"
    return f" ({clock['device']}, {threads})"


def _bound(score: Summary, said: bool) -> str:
    """The kind of the bound, and its error where two decimals show one; with its value where no
    column has it."""
    value = f"{number(score.mean, 2)}, " if said else ""
    error = score.mc_std or 0.0
    blurred = f", Monte Carlo error {number(error, 2)}" if error >= 0.01 else ""
    return f"{value}{score.protocol['bound']}{blurred}"


def _samplers(study: Study, fid: dict[str, Summary]) -> list[Span]:
    """Which models were sampled how, and the papers on it."""
    said: dict[str, list[str]] = {}
    for recipe in study.part("B"):
        protocol = fid[recipe.name].protocol if recipe.name in fid else {}
        if way := way_of_sampling(protocol):
            said.setdefault(way, []).append(capital(bare(study, recipe)))
    if not said:
        return []
    ways = [f"{listed(names)}: {way}" for way, names in said.items()]
    if len(said) == 1 and len(names := next(iter(said.values()))) > 2:
        ways = [f"{len(names)} models: {next(iter(said))}"]
    papers = [key for word, key in WAYS.items() if any(word in way for way in ways)]
    cites = [span for key in papers for span in (NO_BREAK_SPACE, {"cite": key})]
    return [f" {'; '.join(ways)}", *cites, "."]


def _features(protocol: dict[str, Any]) -> str:
    features, digest = protocol.get("features"), str(protocol.get("feature_hash", ""))
    if not features:
        return ""
    return f", features {features}" + (f" ({digest[:8]})" if digest else "")
