"""What a machine does to a run: one clear sentence, the right exit code, nothing half written."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import built, images, tiny_vae

from triptych import cli
from triptych.cli import REQUEUE, main
from triptych.errors import UserError
from triptych.evaluate import classifier
from triptych.evaluate.ais import Annealing, annealed_log_px
from triptych.evaluate.classifier import FeatureNet, features_for
from triptych.evaluate.diffusion import ddpm_bound
from triptych.evaluate.evaluation import Evaluation
from triptych.evaluate.judge_flow import outside_score
from triptych.evaluate.likelihood import flow_bounds, importance_bounds
from triptych.evaluate.memory import in_halves
from triptych.evaluate.ode import ode_bound
from triptych.study import display
from triptych.train import checkpoint
from triptych.train.faults import explain, is_out_of_memory
from triptych.train.signals import (
    Stop,
    Stopped,
    StopRequested,
    sigterm_waits,
    stop_on_signals,
    stopped_by_sigterm,
)
from triptych.train.trainer import Trainer
from triptych.vae import VAE

WORDS = ["train", "vae", "--epochs", "2", "--latent-dim", "2", "--out", "r"]
RUN = "r/vae-gaussian/seed-0"


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def left(capsys, *words):
    """Exit code and the last line on stderr, which has no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(words)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("triptych: ")
    return caught.value.code, last


@pytest.mark.parametrize("calls", [0, 1, 5, 12, 20])
def test_a_full_disk(calls, capsys, tmp_path, monkeypatch):
    """Wherever it strikes, the run goes on later and ends as it would have."""
    main([*WORDS[:-1], "whole"])
    flush, done = os.fsync, []

    def full(handle):
        done.append(handle)
        if len(done) > calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, said = left(capsys, *WORDS)
    assert code == 1
    assert "No space left on device" in said
    assert "make room" in said
    assert not list(tmp_path.rglob("*.new"))
    main([*WORDS, *(["--resume"] if checkpoint.exists(tmp_path / RUN) else [])])
    whole, parts = (checkpoint.load(tmp_path / p) for p in (RUN.replace("r/", "whole/", 1), RUN))
    assert all(torch.equal(whole.model[k], parts.model[k]) for k in whole.model)


def test_a_small_disk_that_really_is_full(capsys, tmp_path):
    place = tmp_path / "r"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)])
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        code, said = left(capsys, *WORDS, "--network", "gated")
        assert (code, "No space left on device" in said) == (1, True)
        assert not list(place.rglob("*.new"))
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "out", ["/sys/triptych", "/proc/triptych", "file", "file/below", "x" * 300]
)
def test_a_place_that_cannot_be_written(out, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, said = left(capsys, *WORDS[:-1], out)
    assert code == 2
    assert "name another place" in said
    assert (tmp_path / "file").read_text() == ""


def test_memory_that_runs_out_in_training(capsys, monkeypatch):
    step = Trainer.train_step

    def fails(self):
        if self.step == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0")
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fails)
        code, said = left(capsys, *WORDS)
    assert code == 1
    assert "--batch-size" in said
    main([*WORDS, "--resume"])


def test_all_ways_in_which_memory_runs_out_are_known():
    for asks in (lambda: torch.empty(2**55), lambda: np.empty(2**55), lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            asks()
        assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert explain(RuntimeError("shapes differ")) is None


def scarce(f, most):
    """f as it is where memory holds so many rows."""

    def limited(*rows, **named):
        if len(rows[-1]) > most:
            raise torch.OutOfMemoryError("out of memory")
        return f(*rows, **named)

    return limited


def test_judging_goes_on_in_halves(monkeypatch, g):
    x = images(7).float()

    def all_bounds():
        vae, flow, chain = tiny_vae(), built("pixelflow"), built("ddpm")
        yield vae, "log_weight", lambda: importance_bounds(vae, x.gt(8).float(), 23, again()).iwae
        yield flow, "log_weight", lambda: flow_bounds(flow, x, 2, again())[0]
        yield chain, "bound", lambda: ddpm_bound(chain, x, 2, again())

    def again():
        return torch.Generator().manual_seed(3)

    for model, name, bound in all_bounds():
        whole = bound().values
        f = getattr(model, name)
        narrow = scarce(f, 2)
        if isinstance(model, VAE):  # whose rows are those of its noise
            narrow = lambda x, e, h, f=f: scarce(lambda e: f(x, e, h), 2)(e)  # noqa: E731
        monkeypatch.setattr(model, name, narrow)
        torch.testing.assert_close(bound().values, whole, atol=1e-4, rtol=1e-5)


def test_annealing_the_ode_and_drawing_go_on_in_halves(monkeypatch):
    x = images(5).float()
    vae, chain, flow = tiny_vae(), built("ddpm"), built("pixelflow")
    how = Evaluation(temperature=0.7)

    def again():
        return torch.Generator().manual_seed(3)

    def all_estimates():
        yield annealed_log_px(vae, x.gt(8).float(), Annealing(4, 5, 2), again()).values
        yield ode_bound(chain, x, again())
        yield torch.tensor(outside_score(flow, 5, how, {}, again()).value)

    spread = lambda n, g: torch.linspace(-60, 60, 64).expand(n, -1)  # noqa: E731
    monkeypatch.setattr(flow.flow.base, "sample", spread)
    whole = list(all_estimates())
    assert 0 < whole[-1] < 1
    monkeypatch.setattr(vae.likelihood, "log_prob", scarce(vae.likelihood.log_prob, 2))
    monkeypatch.setattr(chain.net, "forward", scarce(chain.net.forward, 2))
    two_rows = lambda n, g: scarce(lambda rows: spread(len(rows), g), 2)(torch.arange(n))  # noqa: E731
    monkeypatch.setattr(flow.flow.base, "sample", two_rows)
    for ours, theirs in zip(all_estimates(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_halves_end_where_one_row_does_not_fit_or_something_else_is_wrong():
    double = lambda a, b: (a + b, {"a": 2 * a})  # noqa: E731
    rows = torch.arange(5.0)
    both, named = in_halves(scarce(double, 1), rows, rows)
    assert torch.equal(both, 2 * rows)
    assert torch.equal(named["a"], 2 * rows)
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(scarce(double, 0), rows, rows)
    with pytest.raises(RuntimeError, match="size of tensor"):
        in_halves(double, rows, torch.arange(4.0))


def test_sigterm_saves_and_asks_to_be_queued_again(capsys, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        terminate = lambda said: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        patch.setattr(display, "bar_for", lambda title: terminate)
        code, said = left(capsys, *WORDS)
    assert code == REQUEUE == 75
    assert "everything is saved; the same command with --resume goes on" in said
    loop = checkpoint.load(tmp_path / RUN).loop
    assert 0 < loop["step"] < loop["steps"]
    main([*WORDS, "--resume"])


def test_sigterm_outside_of_training_does_too(capsys, monkeypatch):
    """Before there is a run, there is none to go on with."""
    monkeypatch.setattr("triptych.data.load", lambda *a: signal.raise_signal(signal.SIGTERM))
    code, said = left(capsys, *WORDS)
    assert code == REQUEUE
    assert "triptych: stopped; the same command begins anew" in said


def test_sigterm_that_a_library_takes_for_an_error_of_its_own_does_too(capsys, monkeypatch):
    """As pydantic does while it builds a schema."""

    def load(*args):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ValueError("SchemaError") from error

    main(WORDS)
    monkeypatch.setattr("triptych.data.load", load)
    code, said = left(capsys, *WORDS, "--resume")
    assert code == REQUEUE
    assert "finished before is saved; the same command with --resume goes on" in said


def test_what_keeps_nothing_does_not_say_that_it_has(capsys, tmp_path, monkeypatch):
    main(WORDS)
    monkeypatch.setattr("triptych.data.load", lambda *a: signal.raise_signal(signal.SIGTERM))
    code, said = left(capsys, "evaluate", str(tmp_path / RUN))
    assert code == REQUEUE
    assert "triptych: stopped; the same command begins anew" in said


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed_are_no_error(closed, tmp_path):
    """As those of a program that a daemon starts."""
    program = f"{sys.executable} -m triptych train vae {' '.join(WORDS[2:])} {closed}"
    done = subprocess.run(["sh", "-c", program], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert list(tmp_path.glob("**/checkpoint/SHA256SUMS"))


def test_what_an_encoding_lacks_is_no_reason_to_fail(tmp_path):
    out = "print('\N{GREEK SMALL LETTER BETA}')"
    code = f"import triptych.cli as c; c.run_words = lambda w: {out}; c.main()"
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = [sys.executable, "-c", code]
    done = subprocess.run(program, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\\u03b2\n")


def test_ctrl_c_before_there_is_a_command_is_said_in_a_word(capsys, monkeypatch):
    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("tyro.extras.subcommand_cli_from_dict", interrupted)
    code, said = left(capsys, *WORDS)
    assert (code, said) == (1, "triptych: stopped")


def test_sigterm_twice_still_saves_and_ctrl_c_twice_does_not_wait():
    with stop_on_signals() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    with stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped), stopped_by_sigterm(Stop()):
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_while_a_stop_is_on_its_way_breaks_no_cleaning_up(capsys, monkeypatch):
    done = []

    def stopped_when_all_agreed(*a):
        try:
            raise StopRequested(7, 9, signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append("cleaned up")

    def told_as_it_speaks(code, words):
        signal.raise_signal(signal.SIGTERM)
        return told(code, words)

    told = cli.told
    main(WORDS)
    monkeypatch.setattr(cli, "told", told_as_it_speaks)
    monkeypatch.setattr("triptych.data.load", stopped_when_all_agreed)
    code, said = left(capsys, *WORDS, "--resume")
    assert (code, done) == (REQUEUE, ["cleaned up"])
    assert "stopped at step 7 of 9" in said


def test_sigterm_waits_for_what_must_not_be_left_half_done():
    done = []

    def undone():
        signal.raise_signal(signal.SIGTERM)
        done.append("all")

    with pytest.raises(Stopped), stopped_by_sigterm(Stop()), sigterm_waits():
        undone()
    assert done == ["all"]


def test_ctrl_c_twice_leaves_without_a_traceback(capsys, tmp_path, monkeypatch):
    def impatient(said):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(display, "bar_for", lambda title: impatient)
    code, said = left(capsys, *WORDS)
    assert code == 1
    assert "from the last checkpoint" in said
    assert checkpoint.exists(tmp_path / RUN)


def test_no_home_no_folder_for_temporary_files_and_nothing_imported_in_vain(tmp_path):
    nowhere = {"HOME": "/proc/none", "TMPDIR": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
    environment = {k: v for k, v in os.environ.items() if k != "MPLCONFIGDIR"} | nowhere
    code = "import sys; from triptych.cli import main; main(); print(*sys.modules)"
    words = [sys.executable, "-c", code, *WORDS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    # torch's compiler, for which every training would wait
    assert "torch._dynamo" not in done.stdout.split()


@pytest.fixture
def own(digits):
    """Images for which no feature network ships."""
    return replace(digits, name="own")


@pytest.fixture
def quick_features(monkeypatch):
    """A feature network, untrained; counts how often it is made."""
    made = []

    def make(data):
        torch.manual_seed(0)
        made.append(FeatureNet(data.shape))
        return made[-1], 0.5

    monkeypatch.setattr(classifier, "train_classifier", make)
    return made


def test_features_that_cannot_be_kept_are_made_anew(own, quick_features, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/sys/none")
    assert features_for(own).hash == features_for(own).hash
    assert len(quick_features) == 2
    said = capsys.readouterr().err
    assert said.count("could not be kept") == said.count("\n") == 2


@pytest.mark.parametrize("raw", [b"", b"short", bytes(3000)])
def test_features_that_are_damaged_are_made_anew(raw, own, quick_features, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    original = features_for(own).hash
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(raw)
    assert features_for(own).hash == original
    assert len(quick_features) == 2
    assert features_for(own).hash == original
    assert len(quick_features) == 2


def test_a_run_killed_before_its_first_checkpoint_goes_on_with_resume(capsys, tmp_path):
    main(WORDS)
    shutil.rmtree(tmp_path / RUN / "checkpoint")
    shutil.rmtree(tmp_path / RUN / "checkpoint.old")
    (tmp_path / RUN / "metrics.jsonl").write_text('{"step": 3')
    main([*WORDS, "--resume"])
    loop = checkpoint.load(tmp_path / RUN).loop
    assert loop["step"] == loop["steps"]


def test_a_sentence_for_every_error_of_the_system():
    for number in errno.errorcode:
        code, said = explain(OSError(number, os.strerror(number), "/some/file")) or (0, "")
        assert code in (1, 2)
        assert "/some/file" in said
        assert os.strerror(number) in said
    assert explain(UserError("a")) == (2, "a")
