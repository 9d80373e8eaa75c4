"""triptych: latent-variable models, normalizing flows and diffusion models in one laboratory."""

__version__ = "0.1.0"
