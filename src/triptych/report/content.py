"""All that the report says, as data for the template. Strings stay strings: none is markup."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from triptych.report.architectures import papers, sentences
from triptych.report.discussion import HEADS
from triptych.report.edition import (
    DECLARATION_HEADING,
    REFERENCES_HEADING,
    SNIPPETS_HEADING,
    Edition,
)
from triptych.report.group import Group
from triptych.report.latent_figure import panels_of
from triptych.report.likelihood_table import likelihood_table
from triptych.report.load import Study
from triptych.report.made_of import own_file
from triptych.report.own_text import Paragraph, read_own
from triptych.report.runs import Latent, read_samples
from triptych.report.sampling_table import sampling_table, says_how
from triptych.report.tables import Table
from triptych.report.wording import Span, called, listed

BIBLIOGRAPHY = Path(__file__).with_name("references.bib")

HELD = "50, 80, 95%"


@cache
def citations() -> list[str]:
    """The keys of references.bib, which a text may cite."""
    return sorted(re.findall(r"^@\w+\{(.+),$", BIBLIOGRAPHY.read_text("utf-8"), re.MULTILINE))


def build(
    study: Study,
    edition: Edition,
    group: Group,
    heights: dict[str, float | None],
    discussion: list[Paragraph],
    details: bool = True,
    brief: bool = False,
    terse: bool = False,
) -> dict[str, Any]:
    """The template's data for page 1 and the headings.

    `heights`: of the figures that there are, in cm where room is to be kept for one, None where it
    is drawn. `details`: parameters and epochs beside each architecture. `brief`: of papers, those
    on the models, not on their parts. `terse`: of architectures, what is not in brackets.
    """
    wide: list[dict[str, Any]] = []
    last = None
    if "prior-posterior" in heights:
        caption = _posterior_caption(study)
        wide.append(_figure(1, "prior-posterior", heights, caption))
    likelihood, sampling = likelihood_table(study), sampling_table(study)
    if "samples" in heights:
        where = None if not says_how(study) else 2 if likelihood else 1
        last = _figure(1 + len(wide), "samples", heights, _samples_caption(study, where))
    if likelihood is not None:
        wide.append(_table(1, likelihood, 12.0))
    return {
        "title": edition.title,
        "head": edition.head,
        "snippets-heading": SNIPPETS_HEADING,
        "references-heading": REFERENCES_HEADING,
        "course": group.course,
        "authors": [{"name": name, "number": number} for name, number in group.members],
        "date": group.date,
        "placeholder": group.placeholder,
        "wide": wide,
        "last": last,
        "table2": None if sampling is None else _table(2 if likelihood else 1, sampling, 6.0),
        "models": sentences(study, details, terse),
        "models-intro": papers(study, brief),
        "discussion": [asdict(paragraph) for paragraph in discussion],
        "before": _before_table(discussion),
    }


def declaration(edition: Edition, folders: Sequence[Path]) -> dict[str, Any] | None:
    """The page on generative AI, where the edition has one: the words of the first ai.md in these
    folders that has any, or none."""
    if not edition.declaration:
        return None
    path = own_file("ai.md", folders)
    paragraphs = read_own(path, citations()) if path else []
    return {"heading": DECLARATION_HEADING, "paragraphs": [asdict(p) for p in paragraphs]}


def _before_table(discussion: list[Paragraph]) -> int:
    """How many paragraphs stand before the sampling table: those on part A."""
    on_samples = [p.head.startswith(HEADS["samples"]) for p in discussion]
    return on_samples.index(True) if any(on_samples) else len(discussion)


def _figure(
    number: int, name: str, heights: dict[str, float | None], caption: list[Span]
) -> dict[str, Any]:
    return {
        "kind": "figure",
        "number": number,
        "file": f"{name}.pdf",
        "height": heights[name],
        "caption": caption,
    }


def _table(number: int, table: Table, gap: float) -> dict[str, Any]:
    return {
        "kind": "table",
        "number": number,
        "header": table.header,
        "rows": table.rows,
        "caption": table.caption,
        "gap": gap,
    }


def _posterior_caption(study: Study) -> list[Span]:
    """Of the panels of part A, of a latent DDPM's, or of both."""
    shown = panels_of(study)
    priors = [latent for _, latent in shown if latent.chain is None]
    chains = [(recipe, latent) for recipe, latent in shown if latent.chain is not None]
    lead: Span = {"strong": "Prior and aggregate posterior"}
    coloured = any(latent.classes.size > 1 for _, latent in shown)
    dots = "Dots: q(z) by class" if coloured else "Dots: q(z)"
    lacking = _not_shown(study, "A", "latent.npz")
    if not priors:
        [(recipe, chain)] = chains
        where = f" of {called(study, recipe)} ({_seeds([chain.seed])}){_plane([chain])}"
        held = f"grey: {HELD} of its VAE's prior; lines: of the chain"
        return [lead, f"{where}. {dots}; {held}.{lacking}"]
    seeds = {latent.seed for latent in priors}
    rings = "; rings: its draws" if any(latent.projected for latent in priors) else ""
    text = f"{dots}; dashed: {HELD} of q(z); grey: the prior's{rings}"
    for _, chain in chains:
        axes = "own axes" if chain.projected else "own scale"
        axes += "" if chain.seed in seeds else f", {_seeds([chain.seed])}"
        text += f". Last panel ({axes}): grey, its VAE's prior; lines, its chain"
    return [lead, f" on one scale ({_seeds(seeds)}){_plane(priors)}. {text}.{lacking}"]


def _seeds(seeds: Iterable[int]) -> str:
    """ "seed 0", "seeds 0 and 1"."""
    found = sorted(set(seeds))
    return f"seed{'s' * (len(found) > 1)} {listed([str(seed) for seed in found])}"


def _plane(found: list[Latent]) -> str:
    """What the axes are, where they are not the latent space's own."""
    projected = {latent.projected for latent in found}
    where = " where M > 2" if len(projected) > 1 else ""
    components = "in q(z)'s first two principal components"
    return f", {components}{where}" if True in projected else ""


def _samples_caption(study: Study, table: int | None) -> list[Span]:
    """`table`: the number of the table that says how they are drawn."""
    found = [(r, got) for r in study.part("B") if (got := read_samples(study, r, 4))]
    seeds = _seeds(seed for _, (seed, _) in found)
    text = f" first four of each model's first run ({seeds}), none picked"
    text += "" if table is None else f", drawn as Table {table} says"
    noises = [(r.latent_dim, seed) for r, (seed, _) in found if r.family == "latent"]
    if len(noises) > 1 and len(set(noises)) == 1:
        text += "; latent DDPMs: same noise"
    lacking = _not_shown(study, "B", "samples.npz")
    return [{"strong": "Samples:"}, f"{text}.{lacking}"]


def _not_shown(study: Study, part: str, file: str) -> str:
    """Which models of the tables and the text a figure lacks: their runs are gone, or have latents
    of one dimension and so no plane."""
    scored = {score.model for score in study.scores}
    lost = [
        called(study, recipe)
        for recipe in study.part(part)
        if recipe.name in scored and study.first_run(recipe, file) is None
    ]
    return f" Not shown: {listed(lost)}." if lost else ""
