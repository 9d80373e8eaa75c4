"""The studies that have a name: the demo, both editions of the assignment, all priors."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from triptych.data import check_name
from triptych.errors import UserError
from triptych.evaluate.evaluation import Drawing, Evaluation
from triptych.study.grid import Plan, Study
from triptych.study.recipes import BRIEF_PRIORS, Recipe, on_gpu, override, recipes_for
from triptych.study.study_file import from_json, from_toml

Preset = Literal["cpu", "gpu"]
BETAS = {"1e-6": 1e-6, "1e-3": 1e-3, "1": 1.0}
STUDIES = ("demo", "brief-2024", "brief-2026", "priors")


def brief_recipes(dataset: str) -> list[Recipe]:
    """What the assignment asks for: its three priors, and the models of part B; the digits, quick
    to learn, with the simpler flow."""
    known, flow = recipes_for(dataset), "pixelflow" if dataset == "digits" else "pixelflow-spline"
    names = [*(f"vae-{prior}" for prior in BRIEF_PRIORS), "vae-grey", flow, "ddpm"]
    return [known[name] for name in names]


def demo() -> Study:
    """The assignment, small, on the embedded digits."""
    recipes = brief_recipes("digits")
    plans = [Plan(r, (0, 1, 2) if r.part == "A" else (0, 1)) for r in recipes]
    return Study("demo", "digits", tuple(plans))


def brief_2024(preset: Preset, dataset: str) -> Study:
    """The 2024 assignment: three priors x 3 seeds, and a VAE, a flow and a DDPM for their samples.

    The cpu preset fits an afternoon on two cores. The gpu preset trains longer, its flow and DDPM
    are larger (`recipes.on_gpu`), the DDPM draws in more steps, with noise in all of them, and is
    guided less, and there are five seeds of the priors and two of part B.
    """
    recipes = brief_recipes(dataset)
    how = Evaluation(sampler="dpm-solver++", steps=20, eta=1.0, guidance=2.0, tradeoff_images=1000)
    if preset == "cpu":
        plans = [Plan(r, (0, 1, 2) if r.part == "A" else (0,)) for r in recipes]
        fewer = {"importance_images": 1000, "elbo_samples": 20, "bound_draws": 2}
        how = replace(how, **fewer, noise_below=6.0, rho=7.0)
        return Study("brief-2024", dataset, tuple(plans), how)
    few, many = (0, 1), (0, 1, 2, 3, 4)
    plans = [Plan(on_gpu(r, dataset), many if r.part == "A" else few) for r in recipes]
    how = replace(how, importance_samples=5000, bound_draws=16, steps=40, guidance=1.25)
    return Study("brief-2024", dataset, tuple(plans), how)


def brief_2026(preset: Preset, dataset: str) -> Study:
    """The 2026 assignment: the same priors; and a VAE, a DDPM, and latent DDPMs on beta-VAEs of
    several beta for part B. In the cpu preset these draw with noise at all levels, at times even in
    log s, which is better for latents and worse for images (results/choices.md)."""
    before = brief_2024(preset, dataset)
    named = {plan.recipe.name: plan for plan in before.plans}
    latent = recipes_for(dataset)["latent-ddpm"]
    if preset == "gpu":
        latent = on_gpu(latent, dataset)
    latents = [
        override(
            latent,
            name=f"latent-ddpm-{word}",
            title=f"Latent, \N{GREEK SMALL LETTER BETA} = {word}",
            beta=beta,
        )
        for word, beta in BETAS.items()
    ]
    part_a = [p for p in before.plans if p.recipe.part == "A"]
    chains = [Plan(recipe, named["ddpm"].seeds) for recipe in latents]
    plans = (*part_a, named["ddpm"], *chains, named["vae-grey"])
    noisy = Drawing("dpm-solver++", steps=20, eta=1.0, guidance=2.0)
    how = replace(before.evaluation, latent=noisy if preset == "cpu" else None)
    return Study("brief-2026", dataset, plans, how, edition="2026")


def priors(preset: Preset, dataset: str) -> Study:
    """All priors on the course's network, five seeds each, same budget and data order; a
    hierarchical prior has two levels of the others' dimensions, and an encoder for each.

    The gpu preset trains longer (`recipes.on_gpu`) and takes IWAE-5000 on all test images.
    """
    recipes = [r for r in recipes_for(dataset).values() if r.part == "A"]
    how = Evaluation(importance_samples=5000, importance_images=1000, elbo_samples=20)
    if preset == "gpu":
        recipes = [on_gpu(r, dataset) for r in recipes]
        how = Evaluation(importance_samples=5000)
    return Study("priors", dataset, tuple(Plan(r, (0, 1, 2, 3, 4)) for r in recipes), how)


def named_study(name: str, preset: Preset | None = None, dataset: str | None = None) -> Study:
    """A built-in study, of the cpu preset if none is asked for, or the one that a TOML file or the
    study.json of another describes."""
    read = {".toml": from_toml, ".json": from_json}.get(Path(name).suffix)
    fixed = name == "demo" or read is not None
    if fixed and preset is not None:
        raise UserError(
            f"--preset {preset} has no effect on {name}, which has its own size; leave it out, or "
            f"choose one of {', '.join(STUDIES[1:])}"
        )
    if name == "demo" and dataset not in (None, "digits"):
        raise UserError(
            f"--dataset {dataset} has no effect on the demo, which is of the digits; leave it out, "
            f"or choose one of {', '.join(STUDIES[1:])}"
        )
    if name == "demo":
        return demo()
    built = {"brief-2024": brief_2024, "brief-2026": brief_2026, "priors": priors}
    if name in built:
        check_name(dataset or "mnist")
        return built[name](preset or "cpu", dataset or "mnist")
    if read is not None:
        return read(Path(name), dataset)
    if os.path.isdir(name):
        raise UserError(
            f"{name} is a folder; name the study itself, one of {', '.join(STUDIES)}, a .toml "
            f"file or a study.json, and the folder with --out {name}"
        )
    raise UserError(
        f"there is no study {name!r}; name one of {', '.join(STUDIES)}, a .toml file or a "
        f"study.json"
    )
