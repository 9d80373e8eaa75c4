"""What the discussion says of part B: only what the scores support."""

import math
from collections.abc import Sequence
from itertools import combinations
from operator import attrgetter

from triptych.report.claims import compare, one_run, ranked, tells_better, title_of
from triptych.report.load import Recipe, Study, Summary
from triptych.report.wording import Span, capital, count, listed, number, two_digits

FASTER = 1.2  # times as many samples a second, in every run: clocks differ by less
# Student's t at 95% with 18 degrees of freedom: of two FIDs, each with an error from ten blocks.
T_18 = 2.10


def sampling(study: Study, brief: bool, terse: bool = False) -> list[Span]:
    """FID with its floor, precision and recall, what latents gain, time, and bits/dim, as far as
    they were scored.

    `brief`: of FIDs that stand in the table too, the lowest and the highest.
    """
    recipes = study.part("B")
    fid, bpd = ranked(study, recipes, "fid"), ranked(study, recipes, "bpd")
    spans: list[Span] = []
    if fid:
        spans += [one_run(fid, brief), _values(study, fid, brief)]
        told = compare(study, fid, "FID", values=False, terse=terse)
        spans.append(f" {told}" if told else "")
        spans += _precision_and_recall(study, fid, brief)
    spans += [_own_priors(study, recipes, brief), _beta(study, recipes), _clock(study, fid)]
    if len(bpd) > 1 and not brief:
        spans.append(f" {compare(study, bpd, 'The bound in bits/dim', terse=terse)}")
    return [span for span in spans if span]


def _precision_and_recall(study: Study, fid: Sequence[Summary], brief: bool) -> list[Span]:
    """What FID has in one number: how many samples lie among real images, and how many of these
    among samples; beside what real images have of each other."""
    metrics = ("precision", "recall")
    found = [[study.score(model.model, m) for model in fid] for m in metrics]
    precision, recall = ([s for s in scores if s and "real" in s.protocol] for scores in found)
    if not len(precision) == len(recall) == len(fid):
        return []
    real = " and ".join(number(s.protocol["real"], 2) for s in (precision[0], recall[0]))
    if brief and len(fid) > 3:
        said = " and ".join(_range([s.mean for s in scores]) for scores in (precision, recall))
    else:
        pairs = [
            f"{number(p.mean, 2)} and {number(r.mean, 2)} for {title_of(study, p)}"
            for p, r in zip(precision, recall, strict=True)
        ]
        said = listed(pairs)
    lead: Span = " Precision and recall "
    return [lead, {"cite": "kynkaanniemi2019"}, f" are {said}; for real images {real}."]


def _own_priors(study: Study, recipes: Sequence[Recipe], brief: bool) -> str:
    """What latent DDPMs gain over their VAE's own prior, and what the decoder leaves to gain."""
    prior = ranked(study, recipes, "fid-prior")
    if not prior:
        return ""
    limits = [study.score(s.model, "fid-reconstruction") for s in prior]
    least = [limit.mean for limit in limits if limit is not None]
    least = least if len(least) == len(prior) else []  # else nobody could say whose they are
    if brief and len(prior) > 2:
        said, left = _range([s.mean for s in prior]), _range(least)
    else:
        said = listed([f"{number(s.mean, 2)} for {title_of(study, s)}" for s in prior])
        left = listed([number(v, 2) for v in least])
    text = f" With latents from the beta-VAE's own prior, FID is {said}"
    return text + (f"; with latents of training images, {left}." if left else ".")


def _beta(study: Study, recipes: Sequence[Recipe]) -> str:
    """Whether latent DDPMs of one run each differ in FID by more than its error says of two."""
    fid = [study.score(r.name, "fid") for r in recipes if r.family == "latent"]
    known = [s for s in fid if s is not None and s.mc_std and s.n_seeds == 1]
    if len(known) < 2 or len(known) < len(fid):
        return ""
    mean = attrgetter("mean")
    if _apart(min(known, key=mean), max(known, key=mean)):
        return ""
    return " FID's error is too large to tell which latent DDPM is best."


def _range(values: Sequence[float]) -> str:
    return f"{number(min(values), 2)} to {number(max(values), 2)}" if values else ""


def _clock(study: Study, fid: Sequence[Summary]) -> str:
    """Samples a second of every model, as multiples of those of the one with the lowest FID: from
    the least to the most of the paired runs."""
    timed = [(s, rate) for s in fid if (rate := study.score(s.model, "samples-per-second"))]
    if len(timed) < 2 or timed[0][0] is not fid[0]:
        return ""
    (best, its_rate), *others = timed
    times = {s.model: _multiples(rate, its_rate) for s, rate in others}
    if not all(times.values()):
        return ""
    if max(map(max, times.values())) <= 1:
        return f" {capital(title_of(study, best))} has the lowest FID and is the fastest."
    chains = [r.name for r in study.part("B") if r.family == "latent"]
    of_chains = [ratio for name in chains for ratio in times.get(name, [])]
    together = sum(name in times for name in chains) > 1
    told = [
        f"{_ends(times[s.model])} for {title_of(study, s)}"
        for s, _ in others
        if not (together and s.model in chains)
    ]
    if together:
        rest = "other " if best.model in chains else ""
        told.append(f"{_ends(of_chains)} for the {rest}latent DDPMs")
    said = f" Samples a second, as multiples of {title_of(study, best)}'s: {listed(told)}."
    return said + _quality_and_time(study, timed)


def _quality_and_time(study: Study, timed: Sequence[tuple[Summary, Summary]]) -> str:
    """Which models others beat in both, FID and speed; or that the one with the lowest FID is the
    slowest, where the runs tell it from every other in both."""
    behind: dict[str, str] = {}
    slower_than = 0
    for (a, rate_a), (b, rate_b) in combinations(timed, 2):
        ratios = _multiples(rate_a, rate_b) if _lower(study, a, b) else []
        if ratios and min(ratios) > FASTER:
            behind.setdefault(title_of(study, b), title_of(study, a))
        if a is timed[0][0] and ratios and max(ratios) < 1 / FASTER:
            slower_than += 1
    if behind:
        said = listed([f"{worse} is behind {better}" for worse, better in behind.items()])
        return f" In both FID and speed, {said}."
    return " The model with the lowest FID is the slowest." if slower_than == len(timed) - 1 else ""


def _lower(study: Study, a: Summary, b: Summary) -> bool:
    """Whether a's FID is told to be lower: by paired runs, or of one run each by its own error."""
    if a.n_seeds > 1 or b.n_seeds > 1:
        return tells_better(study, a, b)
    return _apart(a, b) and a.mean < b.mean


def _apart(a: Summary, b: Summary) -> bool:
    """Whether two scores of one run each differ by more than their errors say."""
    if not (a.mc_std and b.mc_std):
        return False
    return abs(a.mean - b.mean) > T_18 * math.hypot(a.mc_std, b.mc_std)


def _multiples(rate: Summary, of: Summary) -> list[float]:
    """How many times as many samples a second, for each seed that both have."""
    beside = dict(zip(of.seeds, of.values, strict=True))
    return [v / beside[s] for s, v in zip(rate.seeds, rate.values, strict=True) if s in beside]


def _ends(values: Sequence[float]) -> str:
    """The least and the most, or the one that both round to."""
    return " to ".join(dict.fromkeys(two_digits(v) for v in (min(values), max(values))))


def _values(study: Study, models: Sequence[Summary], brief: bool) -> str:
    """FID of each model, as a multiple of its floor too; `brief`: of many, the lowest and highest
    alone."""
    n = models[0].protocol.get("n")
    at = f"At N = {count(int(n))} images the" if n is not None else "The"
    told = [f"{number(s.mean, 2)} for {title_of(study, s)}" for s in models]
    for i, score in enumerate(models[:1] if brief else models):
        told[i] += _times_its_floor(score)
    if brief and len(models) > 3:
        return f"{at} lowest FID is {told[0]}, the highest {told[-1]}."
    return f"{at} FID is {listed(told)}."


def _times_its_floor(score: Summary) -> str:
    floor = float(score.protocol.get("floor") or 0)
    if floor <= 0 or score.mean <= 0:
        return ""
    return f" ({two_digits(score.mean / floor)} times its floor)"
