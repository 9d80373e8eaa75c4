"""Which settings of a model have a use only where another one has a certain value."""

from collections.abc import Mapping, Sequence
from typing import Any

from triptych.errors import UserError
from triptych.study.configs import HIERARCHICAL, LatentDDPMConfig, ModelConfig

Needs = dict[str, Mapping[str, Sequence[Any]]]

OF_COUPLINGS = {"prior": ("flow", "spline", "maf")}
OF_FLOW_POSTERIOR = {"posterior": ("coupling", "iaf")}
VAE: Needs = {
    "features": {"likelihood": ("autoregressive",)},
    "window": {"likelihood": ("autoregressive",)},
    "sigma": {"likelihood": ("gaussian",)},
    "logistics": {"likelihood": ("logistic",)},
    "hidden": {"network": ("mlp", "gated"), "prior": HIERARCHICAL},
    "channels": {"network": ("residual",)},
    "blocks": {"network": ("residual",)},
    "components": {"prior": ("mixture",)},
    "pseudo_inputs": {"prior": ("vamp", "hierarchical-vamp")},
    "couplings": OF_COUPLINGS,
    "coupling_hidden": OF_COUPLINGS | OF_FLOW_POSTERIOR,
    "bins": {"prior": ("spline",)},
    "acceptance_hidden": {"prior": ("resampled",)},
    "truncation": {"prior": ("resampled",)},
    "posterior_layers": OF_FLOW_POSTERIOR,
    "context": OF_FLOW_POSTERIOR,
    "iwae_samples": {"objective": ("iwae",)},
    "doubly": {"objective": ("iwae",)},
}
PIXEL_FLOW: Needs = {
    "scales": {"network": ("conv", "patch")},
    "blocks": {"network": ("conv",)},
    "bins": {"coupling": ("spline",)},
    "window": {"autoregressive_layers": range(1, 9)},
    "dequantization_steps": {"dequantization": ("variational",)},
    "dequantization_width": {"dequantization": ("variational",)},
}
NEEDS = {"vae": VAE, "pixelflow": PIXEL_FLOW}


def check_needs(model: ModelConfig, asked: dict[str, Any]) -> None:
    """UserError for a setting that was asked for and changes nothing: whoever asks for 20
    components of a flow prior would take its scores for those of a mixture."""
    if isinstance(model, LatentDDPMConfig):
        own = {key: value for key, value in asked.items() if not hasattr(model, key)}
        nested = asked.get("vae")
        check_needs(model.vae, own | (nested if isinstance(nested, dict) else {}))
    for key, places in NEEDS.get(model.kind, {}).items():
        if key in asked and not any(getattr(model, p) in fit for p, fit in places.items()):
            now = " and ".join(f"{place} = {getattr(model, place)!r}" for place in places)
            instead = ", or ".join(_choice(place, fit) for place, fit in places.items())
            raise UserError(
                f"{key} = {asked[key]!r} has no effect with {now}; leave it out, or choose "
                f"{instead}"
            )
    if 1 in asked.get("coupling_hidden", ()) and getattr(model, "posterior", "") == "iaf":
        raise UserError(
            f"coupling_hidden = {asked['coupling_hidden']!r} with posterior = 'iaf' has no use: a "
            f"unit alone sees the image only, and dimensions stay independent; choose two or more"
        )


def _choice(place: str, fit: Sequence[Any]) -> str:
    """ "prior = 'flow' or 'spline'", "autoregressive_layers = 1 to 8"."""
    if isinstance(fit, range):
        return f"{place} = {fit[0]} to {fit[-1]}"
    return f"{place} = {' or '.join(map(repr, fit))}"
