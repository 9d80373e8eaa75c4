"""Which options are of which models."""

from typing import TYPE_CHECKING, Any

from triptych.errors import UserError

if TYPE_CHECKING:
    from triptych.study.configs import ModelConfig

KINDS = {"vae": "VAE", "pixelflow": "pixel flow", "ddpm": "DDPM", "latent": "latent DDPM"}
OF_STEPS = ("steps", "eta", "noise_below", "rho")  # which ancestral sampling has no choice of
AIS = ("ais_images", "ais_steps", "ais_chains", "ais_leapfrog")
USERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("importance_samples", "importance_images", "elbo_samples", *AIS), ("vae",)),
    **dict.fromkeys(("sampler", *OF_STEPS, "guidance"), ("ddpm", "latent")),
    **dict.fromkeys(("ode_images", "ode_trace"), ("ddpm",)),
    "bound_draws": ("pixelflow", "ddpm"),
    "temperature": ("pixelflow",),
}


def check_use(model: "ModelConfig", asked: dict[str, Any], sampler: str) -> None:
    """UserError for an option that the model, or its sampler, has no use for."""
    kind, T = model.kind, getattr(model, "timesteps", None)
    for name in (n for n in USERS if n in asked):
        if kind not in USERS[name]:
            users = " or a ".join(KINDS[k] for k in USERS[name])
            raise UserError(
                f"{name} = {asked[name]} is of a {users}, not of a {KINDS[kind]}; leave it out"
            )
        if name in OF_STEPS and sampler == "ancestral":
            raise UserError(
                f"{name} = {asked[name]} cannot be used with sampler = 'ancestral', which "
                f"takes every step of the chain; choose another --sampler, or leave it out"
            )
        if name == "steps" and T is not None and isinstance(asked[name], int) and asked[name] > T:
            raise UserError(f"steps = {asked[name]} is more than the chain has; choose 2 to {T}")
