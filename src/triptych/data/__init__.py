"""Images: where they come from, how they are split and what a model is shown of them."""

from triptych.data.sources import SOURCES, Dataset, check_name, fetch, load, verify
from triptych.data.views import view

__all__ = [
    "SOURCES",
    "Dataset",
    "check_name",
    "fetch",
    "load",
    "verify",
    "view",
]
