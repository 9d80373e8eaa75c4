"""Which settings of a model have a use only where another one has a certain value."""

from collections.abc import Mapping, Sequence
from typing import Any

from triptych.errors import UserError
from triptych.study.configs import HIERARCHICAL, LatentDDPMConfig, ModelConfig

Needs = dict[str, Mapping[str, Sequence[Any]]]
"""By setting: others, each with the values that give this one a use; one of them is enough."""

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
    for key, others in NEEDS.get(model.kind, {}).items():
        if key in asked and not any(getattr(model, name) in fit for name, fit in others.items()):
            now = " and ".join(f"{name} = {getattr(model, name)!r}" for name in others)
            instead = ", or ".join(_choice(name, fit) for name, fit in others.items())
            raise UserError(
                f"{key} = {asked[key]!r} has no effect with {now}; leave it out, or choose "
                f"{instead}"
            )
    if 1 in asked.get("coupling_hidden", ()) and getattr(model, "posterior", "") == "iaf":
        raise UserError(
            f"coupling_hidden = {asked['coupling_hidden']!r} with posterior = 'iaf' has no use: a "
            f"unit alone sees the image only, and dimensions stay independent; choose two or more"
        )


def _choice(name: str, fit: Sequence[Any]) -> str:
    """ "prior = 'flow' or 'spline'", "autoregressive_layers = 1 to 8"."""
    if isinstance(fit, range):
        return f"{name} = {fit[0]} to {fit[-1]}"
    return f"{name} = {' or '.join(map(repr, fit))}"
