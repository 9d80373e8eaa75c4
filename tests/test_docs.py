"""The programs in docs/python.md run as they stand there, and the files on other pages are read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from triptych.evaluate.evaluation import Evaluation
from triptych.report.group import read_group
from triptych.study.execute import execute
from triptych.study.grid import Plan, Study
from triptych.study.local import Place
from triptych.study.recipes import override, recipes_for

DOCS = Path(__file__).parents[1] / "docs"
ENDED = r"ELBO (-?[\d.]+)"


@pytest.fixture
def programs():
    return re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)


def test_the_group_of_the_front_page_is_one(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.DOTALL)
    (tmp_path / "group.toml").write_text(text)
    group = read_group([tmp_path])
    assert group.date
    assert group.members == [("Ada Example", "s000000")]


def printed(folder, *words):
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_library_is_used_as_its_page_says(tmp_path, programs):
    first, second, fid = printed(tmp_path, "-c", programs[0])
    for line in (first, second):
        assert -30 < float(re.findall(ENDED, line)[0]) < -25
    assert re.fullmatch(r"FID [\d.]+ at N = 360", fid)


def test_a_flow_by_itself_comes_near_to_the_entropy_of_its_data(tmp_path, programs):
    (line,) = printed(tmp_path, "-c", programs[1])
    found, best, distance = map(float, re.findall(r"-?\d+\.\d\d", line))
    assert best - 0.25 < found < best + 0.05
    assert abs(distance - 2) < 0.05


def test_a_run_is_a_model_and_one_of_ones_own_is_set_beside_a_study(tmp_path, programs):
    flow = override(recipes_for("digits")["vae-flow"], epochs=1)
    how = Evaluation(importance_samples=3, elbo_samples=2, images=30)
    demo = Study("demo", "digits", (Plan(flow, (0, 1, 2)),), how)
    place = Place("digits", None, None, torch.device("cpu"))
    execute(demo, tmp_path / "runs" / "demo", place, lambda job, said: None, 1)
    (line,) = printed(tmp_path, "-c", programs[2])
    assert re.fullmatch(r"log w \[-\d+\.\d+, -\d+\.\d+\], samples \[64, 1, 8, 8\]", line)
    (line,) = printed(tmp_path, "-c", programs[3])
    assert float(re.findall(ENDED, line)[0]) < 0
    assert line.endswith("of seeds [0, 1, 2]")
