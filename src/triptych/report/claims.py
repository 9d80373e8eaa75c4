"""Sentences that compare models, and the rule by which one may be written.

A difference is claimed only where Holm's test, over all pairs of models in that metric, finds it at
5%: of nine models that are all the same, one pair or another has an interval without zero in two
studies of three, or more.
"""

from collections.abc import Sequence
from itertools import pairwise

from triptych.evaluate.stats import holm, p_value
from triptych.report.glossary import meaning
from triptych.report.load import Difference, Recipe, Study, Summary
from triptych.report.tables import column_of
from triptych.report.wording import called, counted, decimals_for, few, interval, listed, number

MOST_NEIGHBOURS = 4
FEWER_NEIGHBOURS = 3  # in the tersest text


def told_apart(study: Study, metric: str) -> list[set[str]]:
    """The pairs of models that Holm's test over all pairs in this metric tells apart."""
    pairs = [d for d in study.differences if d.metric == metric and d.interval95]
    found = holm([p_value(d.mean, d.interval95 or (), d.n_seeds) for d in pairs])
    return [{d.a, d.b} for d, is_told in zip(pairs, found, strict=True) if is_told]


def separated(study: Study, a: Summary, b: Summary) -> bool:
    """Whether the test tells these two models apart in a's metric."""
    return {a.model, b.model} in told_apart(study, a.metric)


def _holds_zero(difference: Difference | None) -> bool:
    if difference is None or difference.interval95 is None:
        return False
    low, high = difference.interval95
    return low <= 0 <= high


def ranked(study: Study, recipes: Sequence[Recipe], metric: str) -> list[Summary]:
    """The models that have the metric, best mean first; UserError where protocols differ."""
    scores = column_of(study, recipes, metric).values()
    return sorted(scores, key=lambda s: s.mean, reverse=meaning(metric).better == "higher")


def tells_better(study: Study, a: Summary, b: Summary) -> bool:
    """Whether the paired runs tell that `a` is the better. The two means over all runs would say
    less: where seeds are missing, they are not over the same ones."""
    difference = study.difference(a.metric, a.model, b.model)
    upwards = meaning(a.metric).better == "higher"
    if difference is None or not separated(study, a, b):
        return False
    return (difference.mean > 0) == upwards


def in_order(study: Study, models: Sequence[Summary]) -> bool:
    """Whether each model is told to be better than the next."""
    return all(tells_better(study, a, b) for a, b in pairwise(models))


def compare(
    study: Study, models: Sequence[Summary], name: str, values: bool = True, terse: bool = False
) -> str:
    """What may be said of models in one metric, best first: the numbers where there was one run,
    else each neighbour against the next, or the best against all others where there are many.

    `name`: of the metric, as a sentence begins with it. `values` False: no more than comparisons,
    which may be nothing. `terse` leaves out the intervals of pairs that are not told apart.
    """
    if len(models) == 1 or all(s.n_seeds == 1 for s in models):
        decimals = decimals_for([s.mean for s in models], most=3)
        told = [f"{number(s.mean, decimals)} for {title_of(study, s)}" for s in models]
        return f"{name} is {listed(told)}." if values else ""
    if len(models) > (FEWER_NEIGHBOURS if terse else MOST_NEIGHBOURS):
        return _best_of_many(study, models, name, values)
    pairs = list(pairwise(models))
    if len(models) > 2 and not all(separated(study, a, b) for a, b in pairs):
        pairs.append((models[0], models[-1]))
    differences = [study.difference(a.metric, a.model, b.model) for a, b in pairs]
    if len(models) == len(pairs) == 3 and all(map(_holds_zero, differences)):
        each = "each paired 95% interval contains 0"
        return f"In {_inside(name)} the runs separate no pair: {each}."
    claims, open_, of_runs = [], [], None
    for (a, b), difference in zip(pairs, differences, strict=True):
        names = (title_of(study, a), title_of(study, b))
        if difference is not None and separated(study, a, b):
            claims.append(_claim(difference, names, of_runs))
            of_runs = difference.n_seeds
        else:
            open_.append(_no_claim(difference, names, terse))
    said = [f"{name} is {listed(claims)}."] if claims else []
    if open_:
        said.append(f"In {_inside(name)} the runs do not separate {listed(open_, 'nor')}.")
    return " ".join(said)


def _inside(name: str) -> str:
    """The name inside a sentence: "The ELBO" is ELBO, "The bound in bits/dim" is bits/dim."""
    return name.removeprefix("The ").removeprefix("bound in ")


def _best_of_many(study: Study, models: Sequence[Summary], name: str, values: bool) -> str:
    """What the runs say of the best mean: from which models they tell it. `values`: with the best
    and the worst."""
    (best, *others), metric = models, _inside(name)
    worse = [s for s in others if tells_better(study, best, s)]
    unclear = [title_of(study, s) for s in others if s not in worse]
    lead = ""
    if values:
        decimals = decimals_for([s.mean for s in models], most=3)
        most, least = (
            f"{number(s.mean, decimals)}, for {title_of(study, s)}" for s in (best, models[-1])
        )
        lead = f"The best mean {metric} is {most}, the worst {least}. "
    if not worse:
        return f"{lead}The runs do not show the best to be better than any other."
    difference = study.difference(best.metric, best.model, worse[0].model)
    assert difference is not None
    claim = _claim(difference, (title_of(study, best), title_of(study, worse[0])))
    said = "The runs separate the best from every other; beside the next, "
    if unclear:
        said = f"The runs do not show the best to be better than {few(unclear)}; "
    return f"{lead}{said}{metric} is {claim}."


def _claim(difference: Difference, names: tuple[str, str], of_runs: int | None = None) -> str:
    """By how much the first of two models is better. `of_runs`: of how many paired runs the claim
    before it in the sentence is, which then need not be said again."""
    bounds = sorted(abs(v) for v in difference.interval95 or ())
    decimals = decimals_for([difference.mean, 10 * bounds[0], bounds[1] - bounds[0]], most=3)
    word = "higher" if difference.mean > 0 else "lower"
    size = f"{number(abs(difference.mean), decimals)}{_unit(difference)}"
    lead = "95% interval " if of_runs is None else ""
    n = difference.n_seeds
    paired = "" if n == of_runs else f", {counted(n, 'paired run')}"
    inner = f"{lead}{interval(bounds, decimals)}{paired}"
    return f"{word} for {names[0]} than for {names[1]} by {size} ({inner})"


def _no_claim(difference: Difference | None, names: tuple[str, str], terse: bool) -> str:
    pair = f"{names[0]} from {names[1]}"
    if terse:
        return pair
    if difference is None or difference.interval95 is None:
        return f"{pair} (no two paired runs)"
    low, high = difference.interval95
    bounds = f"{interval((low, high), decimals_for([high - low], most=3))}{_unit(difference)}"
    alone = "" if _holds_zero(difference) else "unadjusted "
    return f"{pair} ({alone}95% interval {bounds})"


def _unit(difference: Difference) -> str:
    worded = {"nats": " nats", "bits/dim": " bits/dim"}
    return worded.get(difference.unit, "")


def title_of(study: Study, score: Summary) -> str:
    """How a sentence calls the model of a score."""
    recipe = next((r for r in study.recipes if r.name == score.model), None)
    return score.model if recipe is None else called(study, recipe)


def one_run(models: Sequence[Summary], brief: bool) -> str:
    """A warning where no model has more than one run; `brief`: none beside the table's caption,
    which says it."""
    if brief or any(score.n_seeds > 1 for score in models):
        return ""
    who, stand = ("One run each", "these runs") if len(models) > 1 else ("One run", "this run")
    return f"{who}: no spread over runs can be given, so the numbers stand for {stand} alone. "
