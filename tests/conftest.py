"""Types, and shapes where a module names them, are checked by beartype in every test; nothing is
written outside temporary folders."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook
from typecheck import AS_PEP_484, modules

SHAPED, PLAIN = modules()
install_import_hook(SHAPED, "typecheck.checked")
beartype_packages(PLAIN, conf=AS_PEP_484)
os.environ["OMP_NUM_THREADS"] = "1"  # a core a worker, and so for the processes that tests start

import numpy as np  # noqa: E402
import torch  # noqa: E402

from triptych.data import Dataset, load  # noqa: E402
from triptych.evaluate.classifier import Features, features_for  # noqa: E402


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """What a command that was stopped leaves ignored, for its process would end."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache folder in place of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="session")
def digit_features(digits: Dataset) -> Features:
    """The feature network of the digits."""
    return features_for(digits)


@pytest.fixture
def real_mnist() -> Path:
    """The folder with the real MNIST; skips where TRIPTYCH_DATA does not name one."""
    folder = os.environ.get("TRIPTYCH_DATA")
    if not folder:
        pytest.skip("TRIPTYCH_DATA is not set")
    return Path(folder)
