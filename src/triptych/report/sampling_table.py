"""The table of part B: bits/dim, FID beside its floor, and what sampling takes."""

import math
from dataclasses import replace
from typing import Any

from triptych.report.load import Recipe, Study, Summary
from triptych.report.tables import DASH, Table, behind, cells_of, column_of
from triptych.report.wording import (
    NO_BREAK_SPACE,
    PIXELS,
    PLUS_MINUS,
    Span,
    bare,
    capital,
    counted,
    listed,
    number,
    split_and_n,
    two_digits,
    way_of_sampling,
)

WAYS = {
    "DDIM": "song2021",
    "DPM-Solver++": "lu2022",
    "UniPC": "zhao2023",
    "Heun": "karras2022",
    "below sigma/alpha": "karras2022",
    "rho": "karras2022",
    "autoguidance": "karras2024",
}
PRIOR_FID = "own prior"


def sampling_table(study: Study) -> Table | None:
    """Rows: the models of part B. Columns: bits/dim, FID and its real-against-real floor; or, as in
    the 2026 edition, FID, that of latent DDPMs with their VAE's own prior, samples a second."""
    recipes = study.part("B")
    names = ("bpd", "fid", "fid-prior", "samples-per-second")
    bpd, fid, prior, speed = (column_of(study, recipes, m) for m in names)
    if not bpd and not fid:
        return None
    timed = bool(prior or (speed and study.edition == "2026"))
    columns: dict[str, list[str]] = {}
    if bpd and not timed:
        columns["bits/dim"] = cells_of(recipes, bpd)
    if fid:
        columns["FID"] = cells_of(recipes, _with_errors(fid))
    if fid and not timed:
        columns["floor"] = _floors(recipes, fid)
    if prior:
        columns[PRIOR_FID] = cells_of(recipes, prior)
    if timed:
        columns["1/s"] = _speeds(recipes, speed)
    rows = [[recipe.title, *(c[i] for c in columns.values())] for i, recipe in enumerate(recipes)]
    caption = _caption(study, bpd, fid, speed if timed else None)
    return Table(["Model", *columns], rows, caption)


def _with_errors(fid: dict[str, Summary]) -> dict[str, Summary]:
    """Of one run each, the jackknife's error of each where others have a spread over runs."""
    if any(score.n_seeds > 1 or score.mc_std is None for score in fid.values()):
        return fid
    return {name: replace(score, std=score.mc_std) for name, score in fid.items()}


def _floors(recipes: list[Recipe], fid: dict[str, Summary]) -> list[str]:
    floors = [fid[r.name].protocol.get("floor") if r.name in fid else None for r in recipes]
    return [DASH if floor is None else number(float(floor), 2) for floor in floors]


def _speeds(recipes: list[Recipe], column: dict[str, Summary]) -> list[str]:
    rates = [column.get(r.name) for r in recipes]
    return [DASH if rate is None else _speed(rate) for rate in rates]


def _speed(rate: Summary) -> str:
    """To two digits, with what the clock did from run to run, to the same place."""
    exponent = int(f"{rate.mean:.1e}".partition("e")[2])  # of the rounded mean: 9.97 is 10
    mean, place = two_digits(rate.mean), 10.0 ** (exponent - 1)
    if not rate.std:
        return mean
    whole, decimals = round(rate.std / place) * place, max(0, -round(math.log10(place)))
    beside = number(whole, decimals) if whole else f"<{number(place, decimals)}"
    return f"{mean} {PLUS_MINUS} {beside}"


def _caption(
    study: Study, bpd: dict[str, Summary], fid: dict[str, Summary], speed: dict[str, Summary] | None
) -> list[Span]:
    """`speed`: where samples a second stand in the table and bits/dim do not, else None."""
    recipes = study.part("B")
    spans: list[Span] = [
        {"strong": "Sampling."},
        f" {capital(behind(study, recipes, [bpd, fid]))}.",
    ]
    if fid:
        spans += [*_on_fid(recipes, fid, speed is None), *_samplers(study, fid)]
    if speed is not None:
        own = ""
        if column_of(study, recipes, "fid-prior"):
            own = f"{capital(PRIOR_FID)}: FID of decoded draws of the beta-VAE's prior; "
        spans.append(f" {own}1/s: samples a second{_machine(speed)}.")
    bounds = [
        f"{bare(study, r)}: {_bound(bpd[r.name], speed is not None)}"
        for r in recipes
        if r.name in bpd and "bound" in bpd[r.name].protocol
    ]
    if bounds:
        lead = "Bits/dim are upper bounds" if speed is None else "Upper bounds on bits/dim"
        spans.append(f" {lead} ({'; '.join(bounds)}).")
    return spans


def _on_fid(recipes: list[Recipe], fid: dict[str, Summary], with_column: bool) -> list[Span]:
    """Of which images FID is, by which features, and what floor is; its value, unless there is a
    column of it."""
    protocol = next(iter(fid.values())).protocol
    text = f": {split_and_n(protocol)}{_features(protocol)}"
    if _with_errors(fid) is not fid:
        text += f", {PLUS_MINUS}: the estimate's standard error"
    floor = next((floor for floor in _floors(recipes, fid) if floor != DASH), None)
    if floor is not None:
        text += "; floor: FID of as many training images" + ("" if with_column else f", {floor}")
    return [" FID ", {"cite": "heusel2017"}, f"{text}."]


def says_how(study: Study) -> bool:
    """Whether there is a table, and it says of any model how it is drawn from."""
    fid = column_of(study, study.part("B"), "fid")
    return any(way_of_sampling(score.protocol) for score in fid.values())


def _machine(speed: dict[str, Summary]) -> str:
    """What the clock stood beside."""
    clock = next((s.protocol for s in speed.values()), {})
    if "device" not in clock:
        return ""
    threads = counted(clock["threads"], "thread")
    return f" ({clock['device']}, {threads}, batches of {clock['n']})"


def _bound(score: Summary, said: bool) -> str:
    """The kind of the bound, and its error where two decimals show one; with its value where no
    column has it."""
    value = f"{number(score.mean, 2)}, " if said else ""
    error = score.mc_std or 0.0
    blurred = f", Monte Carlo error {number(error, 2)}" if error >= 0.01 else ""
    return f"{value}{score.protocol['bound']}{blurred}"


def _samplers(study: Study, fid: dict[str, Summary]) -> list[Span]:
    """Which models were sampled how, and the papers on it, each once; and whose pixels are
    means."""
    said: dict[str, list[Recipe]] = {}
    for recipe in study.part("B"):
        protocol = fid[recipe.name].protocol if recipe.name in fid else {}
        for way in (
            way_of_sampling(protocol | {"pixels": ""}),
            PIXELS.get(protocol.get("pixels", "")),
        ):
            if way:
                said.setdefault(way, []).append(recipe)
    if not said:
        return []
    spans: list[Span] = []
    cited: set[str] = set()
    for way, recipes in said.items():
        all_alike = len(said) == 1 and len(recipes) > 2
        who = f"{len(recipes)} models" if all_alike else capital(listed(_names(study, recipes)))
        papers = dict.fromkeys(key for word, key in WAYS.items() if word in way)
        papers = [key for key in papers if key not in cited]
        cited.update(papers)
        lead, gap = "; " if spans else " ", NO_BREAK_SPACE if papers else ""
        spans += [f"{lead}{who}: {way}{gap}", *({"cite": key} for key in papers)]
    return [*spans, "."]


def _names(study: Study, recipes: list[Recipe]) -> list[str]:
    """The models, all latent DDPMs in two words where there are several."""
    latents = [recipe for recipe in study.part("B") if recipe.family == "latent"]
    together = latents if len(latents) > 1 and all(r in recipes for r in latents) else []
    names = ["latent DDPMs" if r in together else bare(study, r) for r in recipes]
    return list(dict.fromkeys(names))


def _features(protocol: dict[str, Any]) -> str:
    features, digest = protocol.get("features"), str(protocol.get("feature_hash", ""))
    if not features:
        return ""
    return f", features {features}" + (f" ({digest[:8]})" if digest else "")
