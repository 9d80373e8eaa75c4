"""No two processes work in one folder, and a dead owner keeps nobody out."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from triptych.cli import main
from triptych.errors import UserError
from triptych.study import lock
from triptych.study.lock import HeldError, locked

HOLD = """
import sys, time
from pathlib import Path
from triptych.study.lock import locked
with locked(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path/run."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_says_who_is_there(other, tmp_path):
    with pytest.raises(HeldError, match=rf"run is in use by process {other.pid} on .* since 20"):
        locked(tmp_path / "run").__enter__()


def test_a_dead_owner_is_no_owner(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert json.loads((tmp_path / "run" / "lock").read_text())["pid"] == other.pid
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "run" / "lock").read_text() == ""


def test_who_waits_gets_in_when_the_owner_ends(other, tmp_path):
    threading.Timer(0.3, other.kill).start()
    began = time.monotonic()
    with locked(tmp_path / "run", wait=True):
        assert time.monotonic() - began > 0.2


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_an_owner_without_a_name_is_still_an_owner(text, tmp_path):
    with locked(tmp_path):
        (tmp_path / "lock").write_text(text)
        with pytest.raises(HeldError, match="in use by another process"):
            locked(tmp_path).__enter__()


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with pytest.raises(UserError, match=r"cannot be locked \(Function not implemented\)") as caught:
        locked(tmp_path).__enter__()
    assert "--out" not in str(caught.value)  # which `report` and `explore` have not


def test_a_run_in_use_is_neither_trained_nor_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "vae", "--epochs", "0.2", "--out", "r"]
    main(words)
    run = tmp_path / "r" / "vae-gaussian" / "seed-0"
    with locked(run):
        for asked in ([*words, "--resume"], words, ["evaluate", str(run), "--images", "20"]):
            capsys.readouterr()
            with pytest.raises(SystemExit) as left:
                main(asked)
            assert left.value.code == 2
            said = capsys.readouterr().err
            assert f"process {os.getpid()} on" in said
            assert said.count("\n") == 1
    assert not (run / "scores.json").exists()
