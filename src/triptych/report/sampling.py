"""What the discussion says of part B: only what the scores support."""

from collections.abc import Sequence

from triptych.report.claims import compare, one_run, ranked, title_of
from triptych.report.load import Recipe, Study, Summary
from triptych.report.wording import Span, count, listed, number


def sampling(study: Study, brief: bool) -> list[Span]:
    """FID with its floor, what latents gain, time, and bits/dim, as far as they were scored."""
    recipes = study.part("B")
    fid, bpd = ranked(study, recipes, "fid"), ranked(study, recipes, "bpd")
    spans: list[Span] = []
    if fid:
        spans += [one_run(fid), _floor(study, fid, brief)]
        spans += [f" {text}" for text in compare(study, fid, "FID", values=False)]
    spans += [_own_priors(study, recipes), _clock(study, fid)]
    if len(bpd) > 1 and not brief:
        spans += [f" {text}" for text in compare(study, bpd, "The bound in bits/dim")]
    return [span for span in spans if span]


def _own_priors(study: Study, recipes: Sequence[Recipe]) -> str:
    """What latent DDPMs gain over their VAE's own prior, and what the decoder leaves to gain."""
    prior = ranked(study, recipes, "fid-prior")
    if not prior:
        return ""
    said = [f"{number(s.mean, 2)} for {title_of(study, s)}" for s in prior]
    limits = [study.score(s.model, "fid-reconstruction") for s in prior]
    least = [number(s.mean, 2) for s in limits if s is not None]
    text = f" With the VAE's own prior for the chain it is {listed(said)}"
    return text + (f"; with the aggregate posterior, {listed(least)}." if least else ".")


def _clock(study: Study, fid: Sequence[Summary]) -> str:
    """Samples a second of the model with the lowest FID and of the fastest."""
    speed = {s.model: study.score(s.model, "samples-per-second") for s in fid}
    timed = [(s, rate.mean) for s in fid if (rate := speed[s.model]) is not None]
    if len(timed) < 2:
        return ""
    (best, slow), (fastest, fast) = timed[0], max(timed, key=lambda pair: pair[1])
    if best.model == fastest.model:
        return f" {_capital(title_of(study, best))} has the lowest FID and is the fastest."
    times = number(fast / slow, 1 if fast < 10 * slow else 0)
    return (
        f" By the clock {title_of(study, fastest)} (FID {number(fastest.mean, 2)}) draws {times} "
        f"times as many samples a second as {title_of(study, best)} ({number(best.mean, 2)})."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _floor(study: Study, models: Sequence[Summary], brief: bool) -> str:
    said = []
    for score in models:
        text = f"{number(score.mean, 2)} for {title_of(study, score)}"
        floor = score.protocol.get("floor")
        if floor is not None and float(floor) > 0 and not (brief and said):
            text += f" ({number(score.mean / float(floor), 1)} times its floor)"
        said.append(text)
    n = models[0].protocol.get("n")
    at = f"At N = {count(int(n))} images the" if n is not None else "The"
    return f"{at} FID is {listed(said)}."
