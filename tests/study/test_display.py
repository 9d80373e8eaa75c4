"""What a study shows while it works, to eyes and to a log."""

import sys

import pytest

from triptych.study.display import Bars
from triptych.study.local import EVALUATING
from triptych.study.recipes import recipes_for
from triptych.study.run import Job
from triptych.train.fit import Progress


@pytest.fixture
def job(tmp_path):
    return Job(recipes_for("digits")["vae-flow"], (3,), tmp_path)


def test_a_run_that_is_judged_says_with_what(job, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = Bars()
    show(job, f"{EVALUATING} seed 3: 500 of 10,000 samples")  # trained before: there is no bar yet
    assert "vae-flow seed 3, evaluating seed 3: 500 of 10,000 samples" in capsys.readouterr().err
    show(job, "done")
    show(job, Progress(1, 2, 0.5))
    show(job, f"{EVALUATING} seed 3: bounds")
    assert "1/2" in (shown := capsys.readouterr().err)
    assert "evaluating seed 3: bounds" in shown
    show(job, "done")
    assert not show.bars
    assert capsys.readouterr().err.rstrip().endswith("vae-flow seed 3: done")


def test_a_log_has_a_line_for_what_has_ended_alone(job, capsys):
    show = Bars()
    for done in range(20):
        show(job, f"{EVALUATING} seed 3: {done} of 20 samples")
    show(job, "done")
    assert capsys.readouterr().err == "vae-flow seed 3: done\n"
