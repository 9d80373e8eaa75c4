"""Studies whose processes are killed, stopped, left alone, or started twice."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from triptych.evaluate.evaluation import Evaluation
from triptych.study.execute import execute
from triptych.study.grid import Plan, Study
from triptych.study.local import HELD, Place
from triptych.study.lock import locked
from triptych.study.recipes import override, recipes_for
from triptych.study.store import RunFolder
from triptych.train import checkpoint
from triptych.train.fit import Progress
from triptych.train.signals import Stopped

PLACE = Place("digits", None, None, torch.device("cpu"))
QUICK = Evaluation(importance_samples=3, elbo_samples=2, images=30)


def study(**epochs):
    base = recipes_for("digits")["vae-gaussian"]
    recipes = [override(base, name=n, hidden=[8], epochs=e) for n, e in epochs.items()]
    return Study("tiny", "digits", tuple(Plan(r, (0,)) for r in recipes), QUICK)


def owner(run):
    return json.loads((run / "lock").read_text())["pid"]


def go(asked, folder, display=lambda job, said: None, workers=2):
    return execute(asked, folder, PLACE, display, workers)


def test_a_killed_worker_stops_no_other_and_is_tried_again(tmp_path):
    """Long enough that it cannot be done before it is killed, short enough to be done after."""
    asked, said = study(a=40.0, b=0.3), []

    def kill(job, word):
        said.append((job.recipe.name, word))
        if job.recipe.name == "a" and isinstance(word, Progress) and word.step < word.steps:
            os.kill(owner(tmp_path / "a" / "seed-0"), signal.SIGKILL)

    outcome = go(asked, tmp_path, kill)
    ((model, reason),) = ((f["model"], f["reason"]) for f in outcome.results["failures"])
    assert model == "a"
    assert reason.startswith("its process was killed (SIGKILL)")
    assert ("b", "done") in said
    assert outcome.unfinished == 1
    again = go(asked, tmp_path, workers=1)
    assert again.results["failures"] == []
    assert again.unfinished == 0
    assert not (tmp_path / "a" / "seed-0" / "failure.json").exists()
    assert checkpoint.load(tmp_path / "a" / "seed-0").loop["step"] == asked_steps(tmp_path)


def asked_steps(folder):
    return checkpoint.load(folder / "a" / "seed-0").loop["steps"]


def test_only_what_mathematics_failed_is_left_alone(tmp_path):
    for name, final in (("a", True), ("b", False)):
        RunFolder(tmp_path / name / "seed-0").write_failure("the reason", final)
    earlier = {"schema": 1, "reason": "log_px was not finite at step 3"}
    (tmp_path / "c" / "seed-0").mkdir(parents=True)
    (tmp_path / "c" / "seed-0" / "failure.json").write_text(json.dumps(earlier))
    outcome = go(study(a=0.3, b=0.3, c=0.3), tmp_path, workers=1)
    assert [f["model"] for f in outcome.results["failures"]] == ["a", "c"]
    assert outcome.unfinished == 0
    assert RunFolder(tmp_path / "b" / "seed-0").finished


def test_a_signal_stops_the_study_when_its_workers_have_saved(tmp_path):
    sent = []

    def interrupt(job, word):
        if isinstance(word, Progress) and not sent:
            sent.append(word)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        go(study(a=1000.0, b=1000.0), tmp_path, interrupt)
    assert stopped.value.number == signal.SIGTERM
    assert multiprocessing.active_children() == []
    saved = checkpoint.load(sent_by(tmp_path)).loop
    assert 0 < saved["step"] < saved["steps"]
    assert not list(tmp_path.glob("*/seed-0/failure.json"))


def sent_by(folder):
    """The run that was being trained; the other may not have begun."""
    runs = [p.parent for p in folder.glob("*/seed-0/checkpoint")]
    return max(runs, key=lambda run: checkpoint.load(run).loop["step"])


def test_ctrl_c_is_blocked_in_every_worker():
    """It would end one that is importing or judging with a traceback. The first process that is
    started is not a worker but multiprocessing's resource tracker."""
    code = """
import signal
from multiprocessing import util
from triptych.study.local import Worker

blocked, start = [], util.spawnv_passfds

def noting(*what):
    blocked.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    return start(*what)

util.spawnv_passfds = noting
for _ in range(2):
    Worker(None, None, False).process.kill()
print(blocked[1:])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[True, True]", done.stderr


def test_workers_save_and_end_when_their_study_is_killed(tmp_path):
    text = '[[recipe]]\nbase = "vae-gaussian"\nname = "{}"\nepochs = 1000\nhidden = [8]\n'
    (tmp_path / "s.toml").write_text("seeds = 1\n" + text.format("a") + text.format("b"))
    words = ["study", str(tmp_path / "s.toml"), "--out", str(tmp_path / "r"), "--workers", "2"]
    code = "from triptych.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.DEVNULL)
    run = tmp_path / "r" / "a" / "seed-0"
    try:
        wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text())
        worker = owner(run)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not alive(worker))
    assert checkpoint.load(run).loop["step"] > 0
    with locked(run):
        pass


def wait_for(happened, seconds=120):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_run_that_another_study_has_is_left_for_last_and_then_taken_over(tmp_path):
    said = []
    with locked(tmp_path / "a" / "seed-0"):
        held = threading.Event()
        thread = threading.Thread(target=lambda: go(study(a=0.3, b=0.3), tmp_path, tell, 1))

        def tell(job, word):
            said.append((job.recipe.name, word))
            if isinstance(word, str) and word.startswith(HELD):
                held.set()

        thread.start()
        assert held.wait(60)
        wait_for(lambda: ("b", "done") in said)
        assert not RunFolder(tmp_path / "a" / "seed-0").finished
    thread.join(60)
    assert said[-1] == ("a", "done")
    assert f"in use by process {os.getpid()}" in said[0][1]
    assert RunFolder(tmp_path / "a" / "seed-0").finished
