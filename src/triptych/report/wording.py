"""Numbers and lists as a reader expects them, and text as spans that the page shows literally."""

import math
from collections.abc import Sequence
from typing import Any

from triptych.report.load import Recipe, Study

# What the page sets: a string as it is, {"strong"|"emph": text}, or {"cite": key}.
Span = str | dict[str, str]

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
LARGEST = 1e6  # written out; beyond it, as only a run that diverged is, the power of ten tells all
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

VIEWS = {
    "threshold": "binarized at 0.5",
    "dynamic": "dynamically binarized",
    "raw": "grey levels",
}
PRIORS = {
    "gaussian": "Gaussian prior",
    "spline": "spline flow prior",
    "maf": "autoregressive flow prior",
    "vamp": "VampPrior",
    "hierarchical-vamp": "hierarchical VampPrior",
}
FAMILIES = {
    "vae": "VAE",
    "pixelflow": "pixel flow",
    "ddpm": "DDPM",
    "vdm": "VDM",
    "latent": "latent DDPM",
}
DATASETS = {
    "mnist": "MNIST",
    "digits": "digits (8x8)",
    "fashion": "Fashion-MNIST",
    "kmnist": "KMNIST",
}
PIXELS = {"means": "means of pixels", "drawn": "pixels drawn"}
SAMPLERS = {
    "ddim": "DDIM",
    "ancestral": "ancestral sampling",
    "dpm-solver++": "DPM-Solver++",
    "unipc": "UniPC",
    "heun": "Heun's method",
}
MOST_NAMED = 4  # in one sentence
KL = "KL(q(z)\N{DOUBLE VERTICAL LINE}p(z))"


def number(value: float, decimals: int) -> str:
    """A fixed-point number with a real minus sign and no negative zero; a huge one as 3.2e12."""
    text = f"{abs(value):,.{decimals}f}".replace(",", NARROW_SPACE)
    if abs(value) >= LARGEST:
        text = f"{abs(value):.1e}".replace("e+", "e")
    return MINUS + text if value < 0 and float(f"{value:.{decimals}f}") != 0 else text


def two_digits(value: float) -> str:
    """A positive number to two digits: what a clock is good for."""
    rounded = round(value, 1 - math.floor(math.log10(value)))
    return number(rounded, max(0, 1 - math.floor(math.log10(rounded))))


def spread(mean: float, std: float | None, decimals: int) -> str:
    """Mean and standard deviation over runs, which is not said to be nil where it is only smaller
    than what is shown; the mean alone where there was one run."""
    text, shown = number(mean, decimals), 10.0**-decimals
    if std is None:
        return text
    deviation = number(std, decimals) if not 0 < std < shown / 2 else f"<{number(shown, decimals)}"
    return f"{text} {PLUS_MINUS} {deviation}"


def interval(bounds: Sequence[float], decimals: int) -> str:
    """ "lo to hi", which stays readable with negative bounds."""
    return f"{number(bounds[0], decimals)} to {number(bounds[1], decimals)}"


def capital(text: str) -> str:
    """The text as a sentence begins with it."""
    return text[:1].upper() + text[1:]


def few(names: Sequence[str]) -> str:
    """The names, or how many they are."""
    return listed(list(names)) if len(names) <= MOST_NAMED else f"{len(names)} models"


def count(n: int) -> str:
    """A whole number with thousands set apart."""
    return f"{n:,}".replace(",", NARROW_SPACE)


def listed(items: Sequence[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def counted(n: int, noun: str) -> str:
    """ "1 run", "3 runs"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def decimals_for(values: Sequence[float], most: int = 4, least: int = 2) -> int:
    """Decimals that show the smallest of these numbers with two digits, `least` to `most`."""
    for decimals in range(least, most):
        if all(abs(v) == 0 or abs(v) >= 10.0 ** (1 - decimals) for v in values):
            return decimals
    return most


def split_and_n(protocol: dict[str, Any]) -> str:
    """ "test split, n = 10 000, binarized at 0.5" out of a protocol."""
    parts = []
    if "split" in protocol:
        drawn = protocol["split"] == "samples"
        parts.append("samples" if drawn else f"{protocol['split']} split")
    if "n" in protocol:
        which = f" {protocol['images']}" if "images" in protocol else ""
        parts.append(f"n{NO_BREAK_SPACE}={NO_BREAK_SPACE}{count(int(protocol['n']))}{which}")
    if "view" in protocol:
        parts.append(VIEWS.get(protocol["view"], str(protocol["view"])))
    return ", ".join(parts)


def way_of_sampling(protocol: dict[str, Any]) -> str:
    """ "DDIM, 50 steps, eta = 0" out of a protocol; nothing where there was no choice."""
    pixels = PIXELS.get(protocol.get("pixels", ""))
    if temperature := protocol.get("temperature"):
        return f"temperature {temperature:g}"
    if not protocol.get("steps"):
        return pixels or ""
    sampler = str(protocol.get("sampler") or "")
    how = SAMPLERS.get(sampler, sampler) or "sampled"
    steps, calls = int(protocol["steps"]), int(protocol.get("evaluations", protocol["steps"]))
    taken = f"{count(steps)} steps" + ("" if calls == steps else f" ({count(calls)} evaluations)")
    guided = f", autoguidance {w:g}" if (w := protocol.get("guidance")) else ""
    shown = f", {pixels}" if pixels else ""
    return f"{how}, {taken}{noise_and_times(protocol)}{guided}{shown}"


def noise_and_times(protocol: dict[str, Any]) -> str:
    """ ", eta = 1 below sigma/alpha = 4, rho = 7" of what of these a protocol has."""
    equals = f"{NO_BREAK_SPACE}={NO_BREAK_SPACE}"
    noise = f", eta{equals}{protocol['eta']:g}" if "eta" in protocol else ""
    if below := protocol.get("noise_below"):
        noise += f" below sigma/alpha{equals}{below:g}"
    return noise + (f", rho{equals}{rho:g}" if (rho := protocol.get("rho")) else "")


def dataset_name(name: str) -> str:
    """As it is usually written."""
    return DATASETS.get(name, name)


def called(study: Study, recipe: Recipe) -> str:
    """How a sentence calls a model: by what tells it from the rest of its part, else by its title.

    Part A by the prior ("the flow prior"), part B by the family ("the DDPM").
    """
    beside = study.part(recipe.part)
    if recipe.part == "A" and [r.prior for r in beside].count(recipe.prior) == 1 and recipe.prior:
        return f"the {PRIORS.get(recipe.prior, f'{recipe.prior} prior')}"
    if recipe.part == "B" and [r.family for r in beside].count(recipe.family) == 1:
        return f"the {FAMILIES.get(recipe.family, recipe.family)}"
    # A comma inside a title would part it in an enumeration.
    first, comma, rest = recipe.title.partition(", ")
    return f"{first} ({rest})" if comma else recipe.title


def bare(study: Study, recipe: Recipe) -> str:
    """The same without its article."""
    return called(study, recipe).removeprefix("the ")


def labels(study: Study, recipes: Sequence[Recipe]) -> list[str]:
    """The title of each; of those that share one, as a model of part A and one of part B may, what
    a sentence calls them."""
    titles = [recipe.title for recipe in recipes]
    return [
        title if titles.count(title) == 1 else capital(bare(study, recipe))
        for title, recipe in zip(titles, recipes, strict=True)
    ]
