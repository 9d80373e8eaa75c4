"""Which settings of judging and sampling are of which models."""

from dataclasses import asdict
from typing import Any

from triptych.errors import UserError
from triptych.evaluate.evaluation import Evaluation
from triptych.study.configs import ModelConfig
from triptych.study.recipes import Recipe

KINDS = {"vae": "VAE", "pixelflow": "pixel flow", "ddpm": "DDPM", "latent": "latent DDPM"}
OF_STEPS = ("steps", "eta", "noise_below", "rho")  # which ancestral sampling has no choice of
OF_AIS = ("ais_steps", "ais_chains", "ais_leapfrog")
REQUIRED = {**dict.fromkeys(OF_AIS, "ais_images"), "ode_trace": "ode_images"}  # which must not be 0
OF_WEIGHTS = ("importance_samples", "importance_images", "elbo_samples")
USERS: dict[str, tuple[str, ...]] = {  # by setting, the kinds of models; of others, all
    **dict.fromkeys((*OF_WEIGHTS, "ais_images", *OF_AIS), ("vae",)),
    **dict.fromkeys(("sampler", *OF_STEPS, "guidance"), ("ddpm", "latent")),
    **dict.fromkeys(("ode_images", "ode_trace"), ("ddpm",)),
    "bound_draws": ("pixelflow", "ddpm"),
    "temperature": ("pixelflow",),
    "latent": ("latent",),
}


def judged_by(recipe: Recipe, how: Evaluation) -> dict[str, Any]:
    """The settings that the scores of a recipe's runs depend on."""
    how = how.of_latents(recipe.model.kind == "latent")
    unused = {name for name, kinds in USERS.items() if recipe.model.kind not in kinds}
    unused |= {name for name, images in REQUIRED.items() if not getattr(how, images)}
    if recipe.part == "A":
        unused.add("tradeoff_images")
    if how.sampler == "ancestral":
        unused.update(OF_STEPS)
    return {name: value for name, value in asdict(how).items() if name not in unused}


def check_use(model: ModelConfig, asked: dict[str, Any], sampler: str) -> None:
    """UserError for an option that the model, or its sampler, does not have."""
    kind, T = model.kind, getattr(model, "timesteps", None)
    for name in (n for n in USERS if n in asked):
        if kind not in USERS[name]:
            users = " or a ".join(KINDS[k] for k in USERS[name])
            raise UserError(
                f"{name} = {asked[name]} applies to a {users}, not to a {KINDS[kind]}; leave it out"
            )
        if name in REQUIRED and not asked.get(REQUIRED[name]):
            raise UserError(
                f"{name} = {asked[name]} has no effect without {REQUIRED[name]}; give that too, or "
                f"leave it out"
            )
        if name in OF_STEPS and sampler == "ancestral":
            raise UserError(
                f"{name} = {asked[name]} cannot be used with sampler = 'ancestral', which "
                f"takes every step of the chain; choose another --sampler, or leave it out"
            )
        if name == "steps" and T is not None and isinstance(asked[name], int) and asked[name] > T:
            raise UserError(f"steps = {asked[name]} is more than the chain has; choose 2 to {T}")
