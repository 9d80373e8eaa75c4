"""Images: where they come from, how they are split and what a model is shown of them."""

from triptych.data.sources import SOURCES, Dataset, check_name, fetch, load, verify
from triptych.data.splits import stratified_split
from triptych.data.views import VIEWS, view

__all__ = [
    "SOURCES",
    "VIEWS",
    "Dataset",
    "check_name",
    "fetch",
    "load",
    "stratified_split",
    "verify",
    "view",
]
