"""The report's discussion: what the scores support, and no more.

A difference is claimed by the rule of claims.py. One run has no spread, so nothing is claimed from
it beyond its number. A group's own discussion.md replaces all of this.
"""

import math
from collections.abc import Sequence

from triptych.report.claims import compare, in_order, one_run, ranked, told_apart
from triptych.report.likelihood_table import at_its_limit
from triptych.report.load import Recipe, Study, Summary
from triptych.report.own_text import Paragraph, read_own
from triptych.report.sampling import sampling
from triptych.report.tables import best_iwae
from triptych.report.wording import (
    KL,
    MOST_NAMED,
    Span,
    called,
    count,
    counted,
    few,
    listed,
    number,
)

HEADS = {"prior-posterior": "Prior and aggregate posterior", "samples": "Sampling quality"}
LONGEST_REASON = 70
MOST_FAILURES = 3
WORTH_A_WARNING = 10.0  # per cent of images


def discuss(
    study: Study,
    citations: Sequence[str],
    brief: bool = False,
    terse: bool = False,
    figures: Sequence[str] = (),
) -> list[Paragraph]:
    """The group's text where there is one, else the text that the scores support.

    `citations`: keys that a group's text may cite as [@key]. `brief` leaves out side remarks,
    `terse` the intervals of what the runs do not separate. `figures`: those of the page, in order.
    """
    own = read_own(study.folder / "discussion.md", citations)
    if own:
        return own
    made = [
        Paragraph("Log-likelihood.", _likelihood(study, brief, terse)),
        Paragraph(_beside("prior-posterior", figures), _match(study, brief, terse)),
        Paragraph(_beside("samples", figures), sampling(study, brief, terse)),
        Paragraph("Failures.", _failures(study)),
    ]
    made = [paragraph for paragraph in made if paragraph.spans]
    return made if terse else _with_rule(made, brief)


def _with_rule(made: list[Paragraph], brief: bool) -> list[Paragraph]:
    """The rule of claims, once, at the end of the first paragraph that has an interval: a pair may
    not be told apart by it although its own interval holds no zero."""
    said, end = " Differences: Holm's test over all pairs, 5% ", "."
    if not brief:
        said = " Differences are claimed by Holm's test over all pairs, at 5% "
        end = "; intervals are of one pair, unadjusted."
    rule: list[Span] = [said, {"cite": "holm1979"}, end]
    for i, paragraph in enumerate(made):
        if any("95% interval" in span for span in paragraph.spans if isinstance(span, str)):
            told = Paragraph(paragraph.head, [*paragraph.spans, *rule])
            return [*made[:i], told, *made[i + 1 :]]
    return made


def _beside(figure: str, figures: Sequence[str]) -> str:
    """The heading of what is said of a figure, and its number if the page has it."""
    seen = f" (Figure {figures.index(figure) + 1})" if figure in figures else ""
    return f"{HEADS[figure]}{seen}."


def _likelihood(study: Study, brief: bool, terse: bool) -> list[Span]:
    recipes = study.part("A")
    models = ranked(study, recipes, "elbo")
    spans: list[Span] = []
    if models:
        spans += [one_run(models, brief), compare(study, models, "The ELBO", terse=terse)]
    iwae = best_iwae(study, recipes)
    if iwae:
        spans += _importance(study, models, ranked(study, recipes, iwae), terse)
        spans += _reliability(study, recipes, iwae)
        spans += [] if brief else _tightening(study, recipes, iwae)
    return [span for span in spans if span]


def _importance(
    study: Study, elbo: Sequence[Summary], iwae: Sequence[Summary], terse: bool
) -> list[Span]:
    """The tighter bound: in a word where it tells the models apart just as the ELBO does."""
    name = iwae[0].metric.upper()
    alike = len(iwae) > 1 and [s.model for s in iwae] == [s.model for s in elbo]
    if alike and in_order(study, elbo) and in_order(study, iwae):
        return [f" {name} ", {"cite": "burda2016"}, " separates them in the same order."]
    return [f" {compare(study, iwae, name, terse=terse)}"]


def _reliability(study: Study, recipes: Sequence[Recipe], iwae: str) -> list[Span]:
    """A warning where the tail of the importance weights is too heavy for the bound to be tight."""
    shares = [study.score(r.name, "unreliable-share") for r in recipes]
    percent = sorted(100 * s.mean for s in shares if s is not None)
    if not percent or percent[-1] < WORTH_A_WARNING:
        return []
    low, high = number(percent[0], 0), number(percent[-1], 0)
    share = f"{high}%" if low == high else f"{low} to {high}%"
    return [
        f" For {share} of the images Pareto k of the weights is too large ",
        {"cite": "vehtari2024"},
        f": there {iwae.upper()} is a bound, not an estimate.",
    ]


def _tightening(study: Study, recipes: Sequence[Recipe], iwae: str) -> list[Span]:
    gains = []
    for recipe in recipes:
        bound, better = study.score(recipe.name, "elbo"), study.score(recipe.name, iwae)
        if bound and better and _same_images(bound, better):
            gains.append((better.mean - bound.mean, called(study, recipe)))
    if not gains:
        return []
    said = listed([f"{number(gain, 2)} for {title}" for gain, title in gains])
    return [f" In nats, {iwae.upper()} exceeds the ELBO by {said}."]


def _same_images(a: Summary, b: Summary) -> bool:
    keys = ("dataset", "split", "n", "view")
    return a.n_seeds == b.n_seeds and all(a.protocol.get(k) == b.protocol.get(k) for k in keys)


def _match(study: Study, brief: bool, terse: bool) -> list[Span]:
    recipes = study.part("A")
    models = ranked(study, recipes, "kl-aggregate")
    spans: list[Span] = []
    if models:
        spans.append(compare(study, models, KL, terse=terse))
    if models and at_its_limit(study):
        spans.append(_at_its_limit(int(models[0].protocol["n"]), terse))
    told = _prior_told_from_posterior(study, recipes, "classifier-accuracy", "A classifier", brief)
    spans += [told, _fewer_pairs(study, models) if told else ""]
    if not brief:
        test = ("energy-distance", "The energy distance")
        spans.append(_prior_told_from_posterior(study, recipes, *test, brief))
    spans = [span for span in [*spans, _order_relation(study, recipes)] if span]
    if spans and not brief:
        why = " For a given encoder the ELBO is highest where the prior is the aggregate posterior "
        spans += [why, {"cite": "tomczak2018"}, "."]
    return spans


def _at_its_limit(n: int, terse: bool) -> str:
    """What KL is where the mutual information is as large as n images allow, log n; `terse`: only
    that it depends on n."""
    lead = f" The posteriors of {count(n)} images hardly overlap:"
    if terse:
        return f"{lead} with more, {KL} would be smaller."
    mean = "KL(q(z|x)\N{DOUBLE VERTICAL LINE}p(z))"
    return f"{lead} {KL} is the mean {mean} minus log {count(n)}, smaller with more images."


def _fewer_pairs(study: Study, models: Sequence[Summary]) -> str:
    """How many pairs of models the classifier's accuracy tells apart, where KL does more of
    them."""
    names = {score.model for score in models}
    by_kl, by_accuracy = (
        [pair for pair in told_apart(study, metric) if pair <= names]
        for metric in ("kl-aggregate", "classifier-accuracy")
    )
    tested = any(d.metric == "classifier-accuracy" for d in study.differences)
    if not tested or len(by_accuracy) >= len(by_kl):
        return ""
    n = math.comb(len(names), 2)
    if n == 1:
        return f" Its accuracy does not separate the two models; {KL} does."
    fewer, more = len(by_accuracy) or "none", "all" if len(by_kl) == n else len(by_kl)
    return f" Its accuracy separates {fewer} of the {n} pairs of models; {KL} separates {more}."


def _prior_told_from_posterior(
    study: Study, recipes: Sequence[Recipe], metric: str, test: str, brief: bool
) -> str:
    """Of which models a test tells the two distributions apart, and unless `brief` of which not."""
    scores = [(called(study, r), study.score(r.name, metric)) for r in recipes]
    tested = [(name, s) for name, s in scores if s is not None and "null95" in s.protocol]
    told = [name for name, score in tested if exceeds_chance(score)]
    rest = [name for name, score in tested if not exceeds_chance(score)]
    if not tested:
        return ""
    counts = [_above(score) for name, score in tested if name in told or not told]
    above, n = map(sum, zip(*counts, strict=True))
    some = f" ({above} of {counted(n, 'run')} exceed their 95% null level)" if 0 < above < n else ""
    if not told:
        return f" {test} tells q(z) from p(z) for no model{some}."
    many = len(tested) > (MOST_NAMED if rest else 2)
    if len(rest) < len(told) and many:
        but = f" but {few(rest)}" if rest else ""
        return f" {test} tells q(z) from p(z) for every model{but}{some}."
    but = f", not for {few(rest)}" if rest and not brief else ""
    return f" {test} tells q(z) from p(z) for {few(told)}{some}{but}."


def exceeds_chance(score: Summary) -> bool:
    """Whether more runs lie above their 95% level than chance explains: under q(z) = p(z) each does
    with probability 5%, and P(so many or more), binomial, is at most 5%."""
    above, n = _above(score)
    chance = sum(math.comb(n, k) * 0.05**k * 0.95 ** (n - k) for k in range(above, n + 1))
    return chance <= 0.05


def _above(score: Summary) -> tuple[int, int]:
    """How many runs lie above their level, of how many. Earlier results have but the mean level."""
    levels = score.levels or score.n_seeds * [float(score.protocol["null95"])]
    above = sum(value > level for value, level in zip(score.values, levels, strict=True))
    return above, score.n_seeds


def _order_relation(study: Study, recipes: Sequence[Recipe]) -> str:
    """ELBO beside KL, only where the runs separate all neighbours in both orders, and KL is not at
    its limit."""
    elbo = ranked(study, recipes, "elbo")
    kl = ranked(study, recipes, "kl-aggregate")
    if len(elbo) < 2 or [s.model for s in elbo] != [s.model for s in kl] or at_its_limit(study):
        return ""
    if not (in_order(study, elbo) and in_order(study, kl)):
        return ""
    return f" {KL} ranks the models as the ELBO does."


def _failures(study: Study) -> list[Span]:
    if not study.failures:
        return []
    titles = {recipe.name: called(study, recipe) for recipe in study.recipes}
    said = []
    for failure in study.failures[:MOST_FAILURES]:
        reason = " ".join(failure.reason.split()).rstrip(".")
        if len(reason) > LONGEST_REASON:
            reason = reason[: LONGEST_REASON - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
        said.append(f"{titles.get(failure.model, failure.model)}, seed {failure.seed} ({reason})")
    rest = len(study.failures) - len(said)
    more = f"; and {counted(rest, 'run')} more" if rest > 0 else ""
    return [f"{counted(len(study.failures), 'run')} gave no score: {'; '.join(said)}{more}."]
