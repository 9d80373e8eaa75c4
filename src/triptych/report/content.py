"""All that the report says, as data for the template. Strings stay strings: none is markup."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from triptych.report.discussion import Paragraph, read_own
from triptych.report.edition import (
    DECLARATION_HEADING,
    REFERENCES_HEADING,
    SNIPPETS_HEADING,
    Edition,
)
from triptych.report.group import Group
from triptych.report.load import Latent, Recipe, Study, read_latent, read_samples
from triptych.report.tables import Table, likelihood_table, sampling_table
from triptych.report.wording import NO_BREAK_SPACE as SPACE
from triptych.report.wording import Span, bare, called, capital, count, dataset_name, listed

CITATIONS = (
    "bauer2019",
    "burda2016",
    "dinh2017",
    "durkan2019",
    "gulrajani2017",
    "heusel2017",
    "higgins2017",
    "ho2019",
    "ho2020",
    "karras2022",
    "karras2024",
    "kingma2014",
    "kingma2018",
    "kingma2021",
    "lu2022",
    "nichol2021",
    "papamakarios2017",
    "rombach2022",
    "salimans2022",
    "simard2003",
    "song2021",
    "tomczak2018",
    "vehtari2024",
    "wu2017",
)
MOST_NAMED = 4
MIRRORED = ", mirrored decoder"  # ends what a VAE's description says of its networks
PAPERS = {
    "vae": ("the VAEs", "kingma2014"),
    "flow": ("the flows", "dinh2017"),
    "spline": ("the spline flows", "durkan2019"),
    "maf": ("the autoregressive flows", "papamakarios2017"),
    "vamp": ("the VampPrior", "tomczak2018"),
    "resampled": ("the resampled prior", "bauer2019"),
    "hierarchical": ("the two levels", "tomczak2018"),
    "ddpm": ("the DDPM", "ho2020"),
    "vdm": ("the VDM", "kingma2021"),
    "latent": ("the latent DDPM", "rombach2022"),
}
# By a word of the architecture.
METHODS = {
    "rational-quadratic": PAPERS["spline"],
    "1x1 convolution": ("invertible 1x1 convolutions", "kingma2018"),
    "variationally dequantized": ("variational dequantization", "ho2019"),
    "autoregressive likelihood": ("the autoregressive likelihood", "gulrajani2017"),
    "beta = ": ("the beta-VAEs", "higgins2017"),
    "bent at random": ("the bending of images", "simard2003"),
    "cosine schedule": ("the cosine schedule", "nichol2021"),
    "learned variance": ("learned variances", "nichol2021"),
    "v-prediction": ("v-prediction", "salimans2022"),
}


def build(
    study: Study,
    edition: Edition,
    group: Group,
    heights: dict[str, float | None],
    discussion: list[Paragraph],
    details: bool = True,
    brief: bool = False,
) -> dict[str, Any]:
    """The template's data for page 1 and the headings.

    `heights`: of the figures that there are, in cm where room is to be kept for one, None where it
    is drawn. `details`: parameters and epochs beside each architecture. `brief`: of papers, those
    on the models, not on their parts.
    """
    wide: list[dict[str, Any]] = []
    last = None
    if "prior-posterior" in heights:
        caption = _posterior_caption(study)
        wide.append(_figure(1, "prior-posterior", heights, caption))
    if "samples" in heights:
        last = _figure(1 + len(wide), "samples", heights, _samples_caption(study))
    likelihood, sampling = likelihood_table(study), sampling_table(study)
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
        "models": _models(study, details),
        "models-intro": _intro(study, brief),
        "discussion": [{"head": p.head, "spans": p.spans} for p in discussion],
        "before": _before_table(discussion),
    }


def declaration(edition: Edition, folders: Sequence[Path]) -> dict[str, Any] | None:
    """The page on generative AI, where the edition has one: the words of the first ai.md in these
    folders, or none."""
    if not edition.declaration:
        return None
    found = [path for folder in folders if (path := folder / "ai.md").is_file()]
    paragraphs = read_own(found[0], CITATIONS) if found else []
    return {
        "heading": DECLARATION_HEADING,
        "paragraphs": [{"head": p.head, "spans": p.spans} for p in paragraphs],
    }


def _before_table(discussion: list[Paragraph]) -> int:
    """How many paragraphs stand before the sampling table: those on part A."""
    heads = [paragraph.head for paragraph in discussion]
    return heads.index("Sampling quality.") if "Sampling quality." in heads else len(heads)


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
    found = [latent for r in study.part("A") if (latent := read_latent(study, r))]
    projected = any(latent.projected for latent in found)
    plane = ", in the posterior's two leading principal components" if projected else ""
    rings = "; rings: draws from the prior" if projected else ""
    dots = "Dots: q(z), numbered by class"
    text = f"{dots}; dashed, grey: regions with 50, 80 and 95% of q(z), of the prior"
    chains = [r for r in study.part("B") if r.family == "latent" and read_latent(study, r)]
    lines = ""
    if chains:
        chain = called(study, chains[0])
        lines = f". Last, on its own scale: grey, its VAE's prior; lines, the same of {chain}"
    return [
        {"strong": "Prior and aggregate posterior"},
        f" on one scale ({_seeds(found)}){plane}. {text}{rings}{lines}.",
    ]


def _seeds(found: list[Latent]) -> str:
    return f"seed {listed([str(s) for s in sorted({latent.seed for latent in found})])}"


def _samples_caption(study: Study) -> list[Span]:
    found = [got for r in study.part("B") if (got := read_samples(study, r, 4))]
    seeds = listed([str(s) for s in sorted({seed for seed, _ in found})])
    return [
        {"strong": "Samples:"},
        f" the first four of each model's first finished run (seed {seeds}), chosen by that rule"
        " alone.",
    ]


def _intro(study: Study, brief: bool) -> list[Span]:
    """Which papers the models are from, and their parts, for those that the study has."""
    present = {recipe.family.removeprefix("pixel") for recipe in study.recipes}
    present |= {recipe.prior for recipe in study.recipes if recipe.prior}
    told = [PAPERS[family] for family in PAPERS if family in present]
    texts = " ".join(recipe.architecture for recipe in study.recipes)
    if not brief:
        told += [paper for word, paper in METHODS.items() if word in texts and paper not in told]
    if not told:
        return []
    spans: list[Span] = []
    for i, (name, key) in enumerate(told):
        joint = "" if i == 0 else " and " if i == len(told) - 1 else ", "
        label = name if i else capital(name)
        spans += [f"{joint}{label} ", {"cite": key}]
    return [*spans, f" are trained on {dataset_name(study.dataset)}."]


def _models(study: Study, details: bool) -> list[dict[str, str]]:
    """A sentence per architecture; the models of part A, and latent DDPMs, say once what they have
    in common."""
    chains = [recipe for recipe in study.part("B") if recipe.family == "latent"]
    others = [[recipe] for recipe in study.part("B") if recipe.family != "latent"]
    groups = [*others, chains] if chains else others
    if study.part("A"):
        groups.insert(0, study.part("A"))
    texts = [_shared_and_own([r.architecture for r in recipes]) for recipes in groups]
    return [
        {
            "title": _group_title(study, recipes),
            "detail": _detail(recipes) if details else "",
            "text": _unlike(texts[0], text) if i else text,
        }
        for i, (recipes, text) in enumerate(zip(groups, texts, strict=True))
    ]


def _unlike(first: str, text: str) -> str:
    """The text without its clauses of the networks where those are the first text's."""
    networks, mirrored, rest = text.partition(MIRRORED)
    same = mirrored and first.startswith(networks + mirrored)
    return f"encoder and decoder as before{rest}" if same else text


def _group_title(study: Study, recipes: list[Recipe]) -> str:
    if len(recipes) == 1:
        return recipes[0].title
    if recipes[0].family == "latent":
        return f"Latent DDPMs ({len(recipes)})"
    if len(recipes) > MOST_NAMED:
        return f"VAEs ({len(recipes)} priors)"
    return f"VAEs ({listed([bare(study, r) for r in recipes])})"


def _shared_and_own(sentences: list[str]) -> str:
    """The sentences in one: their common beginning up to a comma, then the rest of each."""
    texts = list(dict.fromkeys(text.strip().removesuffix(".") for text in sentences))
    same = takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    common = "".join(column[0] for column in same)
    cut = common.rfind(", ") + 2 if len(texts) > 1 and ", " in common else 0
    rests = [text[cut:].removeprefix("and ") for text in texts]
    text = f"{texts[0][:cut].removesuffix(', ')}{'; ' if cut else ''}{'; '.join(rests)}."
    return text.replace(" = ", f"{SPACE}={SPACE}")


def _detail(recipes: list[Recipe]) -> str:
    sizes = list(dict.fromkeys(_parameters(r.parameters) for r in recipes))
    epochs = list(dict.fromkeys(f"{r.epochs:g}" for r in recipes))
    unit = "epoch" if epochs == ["1"] else "epochs"
    said = [f"{'/'.join(sizes)}{SPACE}parameters", f"{'/'.join(epochs)}{SPACE}{unit}"]
    latents = {r.latent_dim for r in recipes if r.latent_dim is not None}
    if latents and not all("M = " in r.architecture for r in recipes):
        said.insert(1, f"M{SPACE}={SPACE}{listed([str(m) for m in sorted(latents)])}")
    return ", ".join(said)


def _parameters(n: int) -> str:
    if n >= 10**6:
        return f"{n / 1e6:.1f}{SPACE}M"
    return f"{n / 1e3:.0f}{SPACE}k" if n >= 10**4 else count(n)
