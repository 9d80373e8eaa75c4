"""What page 1 says of the models: whose they are, and how each is built."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from triptych.report.load import Recipe, Study
from triptych.report.wording import NO_BREAK_SPACE as SPACE
from triptych.report.wording import Span, bare, capital, count, dataset_name, listed

MOST_PRIORS_NAMED = 4
MIRRORED = ", mirrored decoder"  # ends what a VAE's description says of its networks
# Clauses, and what stands in their place where a model before has the same.
SAID_ONCE = {
    r", images distorted at random( \(.*?\))?": ", images distorted as before",
    r"; T\s=\s\d+, \w+ schedule, [\w-]+": "; T, schedule and prediction as before",
    r", sinusoidal time embedding": "",
    r" \([\d-]+ hidden units\)": "",
}
PAPERS = {
    "vae": ("VAE", "kingma2014"),
    "beta": ("beta-VAE", "higgins2017"),
    "flow": ("flow", "dinh2017"),
    "spline": ("spline flow", "durkan2019"),
    "maf": ("autoregressive flow", "papamakarios2017"),
    "vamp": ("VampPrior", "tomczak2018"),
    "resampled": ("resampled prior", "bauer2019"),
    "hierarchical": ("hierarchical prior", "tomczak2018"),
    "ddpm": ("DDPM", "ho2020"),
    "vdm": ("VDM", "kingma2021"),
    "latent": ("latent DDPM", "rombach2022"),
}


def one_of(*wanted: str) -> Callable[[Any], bool]:
    """Whether a setting is one of these."""
    return lambda setting: setting in wanted


# A setting; whether its value means that a paper's method is used; the method's name and the paper.
METHODS: tuple[tuple[str, Callable[[Any], bool], tuple[str, str]], ...] = (
    ("coupling", one_of("spline"), ("spline flows", PAPERS["spline"][1])),
    ("network", one_of("conv", "patch"), ("invertible 1x1 convolutions", "kingma2018")),
    ("autoregressive_layers", lambda n: n > 0, ("autoregressive layers on pixels", "ma2019")),
    ("dequantization", one_of("variational"), ("variational dequantization", "ho2019")),
    ("likelihood", one_of("autoregressive"), ("the autoregressive likelihood", "gulrajani2017")),
    ("bent", lambda share: share > 0, ("elastic distortion of images", "simard2003")),
    ("optimizer", one_of("muon"), ("Muon", "jordan2024")),
    ("schedule", one_of("cosine"), ("the cosine schedule", "nichol2021")),
    ("variance", one_of("learned"), ("learned variances", "nichol2021")),
    ("prediction", one_of("v"), ("v-prediction", "salimans2022")),
)


def papers(study: Study, brief: bool) -> list[Span]:
    """Which papers the models are from and, unless `brief`, their parts, as far as the study has
    them."""
    present = Counter(kind for recipe in study.recipes for kind in _kinds(recipe))
    models = [(*PAPERS[kind], present[kind]) for kind in PAPERS if kind in present]
    if not models:
        return []
    first, *rest = _cited([(f"the {name}{'s' * (n > 1)}", key) for name, key, n in models])
    alone = len(models) == 1 and models[0][2] == 1
    verb, they = ("is", "It makes") if alone else ("are", "They make")
    spans = [capital(str(first)), *rest, f" {verb} trained on {dataset_name(study.dataset)}."]
    parts = _parts(study, {key for _, key, _ in models})
    if parts and not brief:
        spans += [f" {they} use of ", *_cited(parts), "."]
    return spans


def _parts(study: Study, cited: set[str]) -> list[tuple[str, str]]:
    """The methods that models are made of, each with its paper, but for papers cited already."""
    tables = [table for recipe in study.recipes for table in _settings(recipe)]
    return [
        (method, key)
        for setting, is_used, (method, key) in METHODS
        if key not in cited and any(setting in t and is_used(t[setting]) for t in tables)
    ]


def _kinds(recipe: Recipe) -> set[str]:
    """The keys of PAPERS that a model has, by its family, its prior and its beta."""
    kinds = {recipe.family.removeprefix("pixel"), recipe.prior or ""}
    beta = any(table.get("beta", 1) != 1 for table in _settings(recipe))
    return kinds | {"beta"} if beta else kinds


def _settings(recipe: Recipe) -> list[dict[str, Any]]:
    """Tables of settings: the model's, the training's, and those of a latent DDPM's VAE."""
    model = recipe.model
    return [model, recipe.train, model.get("vae", {}), model.get("vae_train", {})]


def _cited(papers: Sequence[tuple[str, str]]) -> list[Span]:
    """Names in a row, each with its paper."""
    spans: list[Span] = []
    for i, (name, key) in enumerate(papers):
        joint = "" if i == 0 else " and " if i == len(papers) - 1 else ", "
        spans += [f"{joint}{name} ", {"cite": key}]
    return spans


def sentences(study: Study, details: bool, terse: bool = False) -> list[dict[str, str]]:
    """A sentence per architecture; the models of part A, and latent DDPMs, say once what they have
    in common. `terse`: without what stands in brackets."""
    chains = [recipe for recipe in study.part("B") if recipe.family == "latent"]
    others = [[recipe] for recipe in study.part("B") if recipe.family != "latent"]
    groups = [group for group in (study.part("A"), *others, chains) if group]
    texts = [_shared_and_own([_as_now(r.architecture) for r in recipes]) for recipes in groups]
    if terse:
        texts = [re.sub(r" \([^()]*\)", "", text) for text in texts]
    return [
        {
            "title": _group_title(study, recipes, terse),
            "detail": _detail(recipes) if details else "",
            "text": _unlike(texts[:i], text),
        }
        for i, (recipes, text) in enumerate(zip(groups, texts, strict=True))
    ]


def _as_now(architecture: str) -> str:
    """As the program describes it now: studies of earlier ones say that images were bent."""
    return architecture.replace("images bent at random", "images distorted at random")


def _unlike(earlier: Sequence[str], text: str) -> str:
    """The text without what it has in common with those before it: the networks of the last VAE,
    and clauses that are said once."""
    networks, mirrored, rest = text.partition(MIRRORED)
    before = [one for one in earlier if MIRRORED in one][-1:]
    if before and mirrored and before[0].startswith(networks + mirrored):
        text = f"encoder and decoder as before{rest}"
    for pattern, short in SAID_ONCE.items():
        found = re.search(pattern, text)
        if found and any(found[0] in one for one in earlier):
            text = text.replace(found[0], short)
    return text


def _group_title(study: Study, recipes: list[Recipe], terse: bool) -> str:
    if len(recipes) == 1:
        return recipes[0].title
    if recipes[0].family == "latent":
        return f"Latent DDPMs ({len(recipes)})"
    if len(recipes) > MOST_PRIORS_NAMED:
        return f"VAEs ({len(recipes)} priors)"
    return "VAEs" if terse else f"VAEs ({listed([bare(study, r) for r in recipes])})"


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
