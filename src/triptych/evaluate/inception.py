"""The Inception network on whose features published Frechet distances rest, by torch-fidelity
(Obukhov et al. 2020, doi:10.5281/zenodo.4957738), which agrees with the original of Heusel et al.
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pooch
import torch
from jaxtyping import Float
from requests.exceptions import RequestException
from torch import Tensor, nn

from triptych.errors import UserError

WORD = "inception"  # in the place of a file: fetch the weights
LARGEST_FILE = 2**28  # bytes; the weights take 95 MB


class Inception(nn.Module):
    """2,048 features of grey images in [-1, 1], in eight bits, three channels and 299x299. Of its
    classes, ImageNet's, none is a digit or a garment's, so it has no head here."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        # torch-fidelity unpickles what it is given: it gets what was read without running code.
        clean = BytesIO()
        torch.save(state, clean)
        clean.seek(0)
        extractor = _peer().FeatureExtractorInceptionV3
        self.network = extractor(WORD, ["2048"], feature_extractor_weights_path=clean)

    def features(self, x: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 2048"]:
        """The last pooling layer's."""
        levels = ((x + 1) * 127.5).round().to(torch.uint8)
        return self.network(levels.expand(-1, 3, -1, -1))[0]


def read_inception(file: Path) -> tuple[Inception, bytes]:
    """The network and the bytes of its weights: torch-fidelity's own file.

    Raises:
        UserError: torch-fidelity is not there, or the file is not, or is another one.
    """
    _peer()
    path = fetched() if str(file) == WORD else file
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("too large")
        raw = path.read_bytes()
        return Inception(torch.load(BytesIO(raw), map_location="cpu", weights_only=True)), raw
    except FileNotFoundError:
        raise UserError(f"--features {path} does not exist; name a file, or {WORD}") from None
    except Exception as error:
        raise UserError(
            f"--features {path} does not hold the weights of torch-fidelity's Inception network; "
            f"name that file, or {WORD} to fetch it"
        ) from error


def is_inception(file: Path) -> bool:
    """Whether the word or a file's name asks for this network."""
    return str(file) == WORD or file.name.startswith("weights-inception")


def fetched() -> Path:
    """The file in the cache, fetched if it is not there, with the digits that end its name."""
    url = _peer().URL_INCEPTION_V3
    name = url.rpartition("/")[2]
    path = Path(pooch.os_cache("triptych")) / "features" / name
    try:
        if not path.exists():
            fresh = path.with_name(f"{name}.{os.getpid()}")  # others may be fetching it too
            pooch.retrieve(url, None, fresh.name, path.parent, progressbar=True)
            if not pooch.file_hash(str(fresh)).startswith(Path(name).stem.rpartition("-")[2]):
                fresh.unlink()
                raise ValueError("what came has another checksum")
            fresh.replace(path)
    except (RequestException, ValueError, OSError) as error:
        reason = type(error).__name__ if isinstance(error, RequestException) else error
        raise UserError(
            f"{name} cannot be fetched ({reason}); get it from {url}, and name it with --features"
        ) from None
    return path


def _peer() -> Any:
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except ImportError:
        raise UserError(
            f"--features {WORD} needs torch-fidelity, which is not installed; "
            f"pip install 'triptych[fidelity]'"
        ) from None
    except RuntimeError as error:  # what torchvision raises beside another torch than its own
        raise UserError(
            f"--features {WORD} needs torch-fidelity, which cannot be loaded ({error}); install "
            f"the torchvision that belongs to torch {torch.__version__}"
        ) from None
    return feature_extractor_inceptionv3
