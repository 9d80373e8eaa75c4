"""Studies that the report's tests read."""

import shutil
from pathlib import Path

import pytest
from synthetic import Synthetic, write_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A written study; tests copy it, so that none sees another's changes."""
    return write_study(tmp_path_factory.mktemp("finished") / "study")


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a whole study with three priors, three models of part B and three seeds."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


@pytest.fixture
def one_seed(tmp_path):
    """The same with a single run of each model."""
    return write_study(tmp_path / "one-seed", Synthetic(seeds=(0,)))


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Four snippets of a module that stands outside the package; returns the asks."""
    (tmp_path / "shown_module.py").write_text(SHOWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    from triptych.report.snippets import Ask

    names = ("Model.bound", "Model.sample", "outer", "Model")
    return [Ask(f"Part {i}", (f"shown_module:{n}",)) for i, n in enumerate(names, start=1)]


SHOWN = '''"""A module."""


class Model:
    """Has methods."""

    @property
    def sample(self):
        return 1

    def bound(self, x):
        """The bound.

        Over several lines.
        """

        y = x + 1  # noqa: E501
        return y


def outer(x):
    """Outside."""

    def inner(y):
        """Inside."""
        return "#let a = $x$"

    return inner(x)


def bare():
    """Nothing else."""


raise RuntimeError("shown, never imported")
'''
