"""TRIPTYCH_KILLS=100 makes it the full size."""

import os
import subprocess
import sys
from pathlib import Path


def test_runs_that_are_killed_and_go_on_end_as_if_nothing_had_been(tmp_path):
    """Every kind of model and seeds side by side: weights, moments, logs and scores, to the bit."""
    kills = os.environ.get("TRIPTYCH_KILLS", "5")
    script = Path(__file__).with_name("kills.py")
    words = [sys.executable, str(script), kills, "0", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills in" in done.stdout
    assert "differ: 0" in done.stdout
