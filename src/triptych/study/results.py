"""results.json: every score over its seeds, paired differences, and what failed."""

import itertools
import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from triptych.evaluate.stats import paired_difference, summarise
from triptych.protocols import Score
from triptych.study.store import SCHEMA

# What a score is set beside, and may differ between the seeds of one model without making another
# protocol of it.
LEVELS = {
    "null95": "95% null level",
    "floor": "real images",
    "real": "real images",
    "bpd": "their bound",
}
PER_SEED = tuple(LEVELS)
# How samples were drawn.
SAMPLING = (
    "sampler",
    "steps",
    "evaluations",
    "clip",
    "eta",
    "noise_below",
    "rho",
    "guidance",
    "temperature",
    "pixels",
)
# In what else two models may differ and still be compared on a metric: it says how the model was
# measured, not what was.
PER_MODEL = {
    "kl-aggregate": ("draws",),
    "mutual-information": ("draws",),
    "reconstruction": ("draws",),
    "bpd": ("bound", "samples"),
    "samples-per-second": ("view",),
}

Scores = dict[str, dict[int, list[Score]]]


def results(study: str, scores: Scores, failures: list[dict[str, Any]]) -> dict[str, Any]:
    """The contents of results.json from {model: {seed: scores}}."""
    groups: dict[tuple[str, str, str], dict[int, Score]] = defaultdict(dict)
    for model, by_seed in scores.items():
        for seed, row in by_seed.items():
            for score in row:
                groups[model, score.metric, _key(score, PER_SEED)][seed] = score
    rows = [_row(model, metric, group) for (model, metric, _), group in groups.items()]
    return {
        "schema": SCHEMA,
        "study": study,
        "scores": rows,
        "differences": differences(groups),
        "failures": failures,
    }


def _row(model: str, metric: str, group: dict[int, Score]) -> dict[str, Any]:
    """One model's metric over its seeds. `mc_std` is the estimator's error of the mean over seeds.
    `image_std` is not smaller than that of one seed, as all are judged on the same images. `levels`
    are the 95% null levels, one of each seed."""
    seeds = sorted(group)
    values, first = [group[s].value for s in seeds], group[seeds[0]]
    errors = [e for s in seeds if (e := group[s].mc_std) is not None]
    levels = [group[s].protocol["null95"] for s in seeds if "null95" in group[s].protocol]
    of_images = [e for s in seeds if (e := group[s].image_std) is not None]
    return {
        "model": model,
        "metric": metric,
        "unit": first.unit,
        **asdict(summarise(values)),
        "seeds": seeds,
        "values": values,
        "mc_std": sum(e**2 for e in errors) ** 0.5 / len(errors) if errors else None,
        "image_std": sum(of_images) / len(of_images) if of_images else None,
        "protocol": first.protocol | _means(group, seeds),
        **({"levels": levels} if levels else {}),
    }


def _means(group: dict[int, Score], seeds: list[int]) -> dict[str, float]:
    """Of what differs between seeds, the mean."""
    found = [k for k in PER_SEED if k in group[seeds[0]].protocol]
    return {k: sum(group[s].protocol[k] for s in seeds) / len(seeds) for k in found}


def differences(groups: dict[tuple[str, str, str], dict[int, Score]]) -> list[dict[str, Any]]:
    """a - b over shared seeds, for each pair of models scored under the same protocol."""
    rows = []
    for (left, ours), (right, theirs) in itertools.combinations(groups.items(), 2):
        (a, metric, _), (b, other, _) = left, right
        one, two = next(iter(ours.values())), next(iter(theirs.values()))
        if a == b or metric != other or _key(one, _free(one)) != _key(two, _free(two)):
            continue
        found = paired_difference(_values(ours), _values(theirs))
        if found is None:
            continue
        summary, seeds = found
        head = {"metric": metric, "unit": one.unit, "a": a, "b": b}
        protocol = {k: v for k, v in one.protocol.items() if k not in _free(one)}
        rows.append({**head, **asdict(summary), "seeds": seeds, "protocol": protocol})
    return rows


def _values(group: dict[int, Score]) -> dict[int, float]:
    return {seed: score.value for seed, score in group.items()}


def sampling_keys(protocol: dict[str, Any]) -> tuple[str, ...]:
    """Keys that say how samples were drawn; where none were, `steps` are something else."""
    return SAMPLING if protocol.keys() & {"sampler", "temperature", "pixels"} else ()


def free_keys(metric: str, protocol: dict[str, Any]) -> set[str]:
    """The part of a score's protocol in which that of another model may differ."""
    return {*PER_SEED, *sampling_keys(protocol), *PER_MODEL.get(metric, ())}


def _free(score: Score) -> set[str]:
    return free_keys(score.metric, score.protocol)


def _key(score: Score, without: Collection[str]) -> str:
    plain = {k: v for k, v in score.protocol.items() if k not in without}
    return json.dumps(plain, sort_keys=True)
