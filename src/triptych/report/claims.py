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
from triptych.report.wording import called, decimals_for, few, interval, listed, number, runs

MOST_NEIGHBOURS = 4
FEWER_NEIGHBOURS = 3  # in the tersest text


def told_apart(study: Study, metric: str) -> list[set[str]]:
    """The pairs of models that their paired runs tell apart, with all pairs considered."""
    pairs = [d for d in study.differences if d.metric == metric and d.interval95]
    found = holm([p_value(d.mean, d.interval95 or (), d.n_seeds) for d in pairs])
    return [{d.a, d.b} for d, is_told in zip(pairs, found, strict=True) if is_told]


def separated(study: Study, difference: Difference | None) -> bool:
    """Whether this is a difference, and of such a pair."""
    if difference is None:
        return False
    return {difference.a, difference.b} in told_apart(study, difference.metric)


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
    """Whether the paired runs tell that `a` is the better. Its mean over all of its runs says less:
    where seeds are missing, it is of others."""
    difference = study.difference(a.metric, a.model, b.model)
    upwards = meaning(a.metric).better == "higher"
    if difference is None or not separated(study, difference):
        return False
    return (difference.mean > 0) == upwards


def in_order(study: Study, models: Sequence[Summary]) -> bool:
    """Whether each model is told to be better than the next."""
    return all(tells_better(study, a, b) for a, b in pairwise(models))


def compare(
    study: Study, models: Sequence[Summary], metric: str, values: bool = True, terse: bool = False
) -> list[str]:
    """Best first: the numbers where there was one run, else each neighbour against the next, or
    the best against all others where there are many. `terse` leaves out intervals that hold
    zero."""
    decimals = decimals_for([s.mean for s in models], most=3)
    told = [f"{number(s.mean, decimals)} for {title_of(study, s)}" for s in models]
    if len(models) == 1 or all(s.n_seeds == 1 for s in models):
        return [f"{metric} is {listed(told)}."] if values else []
    if len(models) > (FEWER_NEIGHBOURS if terse else MOST_NEIGHBOURS):
        return [_best_of_many(study, models, metric, values)]
    pairs = list(pairwise(models))
    differences = [study.difference(a.metric, a.model, b.model) for a, b in pairs]
    if len(models) > 2 and not all(separated(study, d) for d in differences):
        pairs.append((models[0], models[-1]))
    differences = [study.difference(a.metric, a.model, b.model) for a, b in pairs]
    name = metric.removeprefix("The ").removeprefix("bound in ")
    if len(models) == len(pairs) == 3 and all(map(_holds_zero, differences)):
        return [f"In {name} the runs separate no pair: each paired 95% interval contains 0."]
    claims, open_, of_runs = [], [], None
    for (a, b), difference in zip(pairs, differences, strict=True):
        names = (title_of(study, a), title_of(study, b))
        if difference is not None and separated(study, difference):
            claims.append(_claim(difference, names, of_runs))
            of_runs = difference.n_seeds
        else:
            open_.append(_no_claim(difference, names, terse))
    said = [f"{metric} is {listed(claims)}."] if claims else []
    if open_:
        said.append(f"In {name} the runs do not separate {listed(open_, 'nor')}.")
    return [" ".join(said)]


def _best_of_many(study: Study, models: Sequence[Summary], metric: str, values: bool) -> str:
    """What the runs say of the best mean: from which models they tell it. `values`: with the best
    and the worst."""
    (best, *others), decimals = models, decimals_for([s.mean for s in models], most=3)
    open_ = [title_of(study, s) for s in others if not tells_better(study, best, s)]
    nearest = next((s for s in others if tells_better(study, best, s)), None)
    least, last = title_of(study, models[-1]), number(models[-1].mean, decimals)
    name = metric.removeprefix("The ").removeprefix("bound in ")
    said = f"The best mean {name} is {number(best.mean, decimals)}, for {title_of(study, best)}, "
    said = f"{said}the worst {last}, for {least}. " if values else ""
    if nearest is None:
        return f"{said}The runs do not show the best to be better than any other."
    difference = study.difference(best.metric, best.model, nearest.model)
    assert difference is not None
    names = (title_of(study, best), title_of(study, nearest))
    claim = _claim(difference, names)
    if open_:
        who = few(open_)
        return f"{said}The runs do not show the best to be better than {who}; {name} is {claim}."
    return f"{said}The runs separate the best from every other; beside the next, {name} is {claim}."


def _claim(difference: Difference, names: tuple[str, str], of_runs: int | None = None) -> str:
    """Of the two models, the first has the better mean. `of_runs` is the number of paired runs that
    the claim before it in the sentence is of."""
    bounds = sorted(abs(v) for v in difference.interval95 or ())
    decimals = decimals_for([difference.mean, 10 * bounds[0], bounds[1] - bounds[0]], most=3)
    word = "higher" if difference.mean > 0 else "lower"
    size = f"{number(abs(difference.mean), decimals)}{_unit(difference)}"
    lead = "95% interval " if of_runs is None else ""
    told = f", {runs(difference.n_seeds).replace(' run', ' paired run')}"
    inner = f"{lead}{interval(bounds, decimals)}{told if of_runs != difference.n_seeds else ''}"
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
