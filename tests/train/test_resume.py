"""A training that stopped and went on is the training that never stopped."""

import dataclasses
import json
import shutil
import signal

import pytest
import torch
from toys import built, training_data

from triptych.errors import UserError
from triptych.train import checkpoint
from triptych.train import fit as fit_module
from triptych.train.batches import TrainingData
from triptych.train.fit import fit
from triptych.train.order import TrainConfig
from triptych.train.signals import StopRequested, stop_on_signals
from triptych.train.trainer import Trainer

CONFIG = TrainConfig(epochs=4, batch_size=8, lr=1e-2, clip=1.0, bf16=False)  # 12 steps


def assert_same(a, b):
    """Every tensor and every remembered number of two checkpoints, bit for bit."""
    for part in (*checkpoint.FILES, "early"):
        ours, theirs = getattr(a, part), getattr(b, part)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), (part, name)
    drop = {"seconds"}
    assert {k: v for k, v in a.loop.items() if k not in drop} == {
        k: v for k, v in b.loop.items() if k not in drop
    }


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def interrupting(data, step, batch=8):
    """The same data; looking at the batch of this step sends the signal of Ctrl-C."""
    seen = []

    def view(x, levels, generator):
        if len(x) == batch:
            seen.append(x)
            if len(seen) == step:
                signal.raise_signal(signal.SIGINT)
        return data.view(x, levels, generator)

    return TrainingData(data.images, data.validation, view, data.levels)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", ["vae-mixture", "pixelflow", "ddpm"])
@pytest.mark.parametrize("step", [3, 8])
def test_stopping_and_going_on_changes_no_bit(name, step, optimizer, tmp_path):
    data = training_data("dynamic" if name == "vae-mixture" else "raw")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    fit([built(name)], [5], [whole], data, config)
    with pytest.raises(StopRequested) as stopped:
        fit([built(name)], [5], [parts], interrupting(data, step), config)
    assert (stopped.value.step, stopped.value.steps) == (step, 12)
    assert checkpoint.load(parts).loop["step"] == step
    fit([built(name, seed=99)], [5], [parts], data, config, resume=True)
    assert_same(checkpoint.load(whole), checkpoint.load(parts))
    assert lines(whole) == lines(parts)


def test_stopping_between_two_lines_of_the_log_adds_none_and_loses_none(tmp_path):
    data, whole, parts = training_data(n=64), tmp_path / "whole", tmp_path / "parts"
    fit([built("vae-gaussian")], [5], [whole], data, CONFIG)
    with pytest.raises(StopRequested):
        fit([built("vae-gaussian")], [5], [parts], interrupting(data, 5), CONFIG)
    fit([built("vae-gaussian")], [5], [parts], data, CONFIG, resume=True)
    assert_same(checkpoint.load(whole), checkpoint.load(parts))
    assert lines(whole) == lines(parts)


def test_the_seconds_of_a_training_go_on_counting(tmp_path):
    data = training_data(n=64)
    with pytest.raises(StopRequested):
        fit([built("vae-gaussian")], [5], [tmp_path], interrupting(data, 20), CONFIG)
    spent = checkpoint.load(tmp_path).loop["seconds"]
    fit([built("vae-gaussian")], [5], [tmp_path], data, CONFIG, resume=True)
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    assert 0 < seconds[0] < spent < seconds[-1]
    assert seconds == sorted(seconds)


def test_early_weights_are_kept_where_the_plan_says_and_for_good(tmp_path):
    """After a third of 32 steps, at the next line of the log: step 12; wherever one stops."""
    config, data = dataclasses.replace(CONFIG, early=1 / 3), training_data(n=64)
    seeds, models = [0, 1], lambda: [built("vae-gaussian", s) for s in (0, 1)]
    whole, parts, short = ([tmp_path / f"{n}-{s}" for s in seeds] for n in ("w", "p", "s"))
    fit(models(), seeds, whole, data, config)
    for before, stop in ((0, 11), (11, 12), (12, 25)):
        stopping = interrupting(data, 2 * (stop - before))
        with pytest.raises(StopRequested) as stopped:
            fit(models(), seeds, parts, stopping, config, resume=before > 0)
        assert stopped.value.step == stop
        assert bool(checkpoint.load(parts[0]).early) == (stop > 11)
    fit(models(), seeds, parts, data, config, resume=True)
    with pytest.raises(StopRequested):
        fit(models(), seeds, short, interrupting(data, 24), config)
    for s in seeds:
        assert_same(checkpoint.load(whole[s]), checkpoint.load(parts[s]))
        early, then = checkpoint.load(whole[s]).early, checkpoint.load(short[s])
        for name in early:
            assert torch.equal(early[name], then.ema[name])


def test_a_crash_between_checkpoints_is_made_good(tmp_path):
    """The lines logged after the last checkpoint are written again, not twice."""
    data, whole, parts = training_data(), tmp_path / "whole", tmp_path / "parts"
    fit([built("vae-flow")], [0], [whole], data, CONFIG)
    with pytest.raises(StopRequested):
        fit([built("vae-flow")], [0], [parts], interrupting(data, 4), CONFIG)
    with open(parts / "metrics.jsonl", "a") as log:
        for step in range(5, 9):
            log.write(json.dumps({"step": step, "loss": 0.0, "seconds": 1.0}) + "\n")
    fit([built("vae-flow")], [0], [parts], data, CONFIG, resume=True)
    assert_same(checkpoint.load(whole), checkpoint.load(parts))
    assert lines(whole) == lines(parts)


def test_a_training_that_begins_anew_is_never_taken_for_the_one_before(tmp_path):
    """It fails before its second checkpoint, where the older training has one of a later step."""

    def failing(images, levels, generator):
        if len(images) < len(data.validation):
            raise MemoryError
        return data.view(images, levels, generator)

    data, other = training_data(), dataclasses.replace(CONFIG, lr=CONFIG.lr / 10)
    broken = dataclasses.replace(data, view=failing)
    fit([built("vae-flow")], [0], [tmp_path / "whole"], data, other)
    fit([built("vae-flow")], [0], [tmp_path / "again"], data, CONFIG, save_every=0)
    with pytest.raises(MemoryError):
        fit([built("vae-flow")], [0], [tmp_path / "again"], broken, other)
    fit([built("vae-flow")], [0], [tmp_path / "again"], data, other, resume=True)
    whole, again = (checkpoint.load(tmp_path / name) for name in ("whole", "again"))
    assert_same(whole, again)


def test_a_torn_last_line_is_made_good(tmp_path):
    data, whole, parts = training_data(), tmp_path / "whole", tmp_path / "parts"
    fit([built("vae-flow")], [0], [whole], data, CONFIG)
    with pytest.raises(StopRequested):
        fit([built("vae-flow")], [0], [parts], interrupting(data, 4), CONFIG)
    with open(parts / "metrics.jsonl", "ab") as log:
        log.write(b'{"step": 3, "loss": 0.\xff')
    fit([built("vae-flow")], [0], [parts], data, CONFIG, resume=True)
    assert lines(whole) == lines(parts)


def test_a_stack_that_was_killed_in_the_middle_of_a_save_goes_on_from_the_step_before(tmp_path):
    data, seeds = training_data(), [0, 1]
    whole, parts = ([tmp_path / f"{n}-{s}" for s in seeds] for n in ("whole", "parts"))
    models = lambda: [built("vae-gaussian", s) for s in seeds]  # noqa: E731
    fit(models(), seeds, whole, data, CONFIG)
    for stop in (10, 8):  # both seeds looked at five batches, then at four more
        with pytest.raises(StopRequested):
            fit(models(), seeds, parts, interrupting(data, stop), CONFIG, resume=stop == 8)
    assert [loop["step"] for loop in checkpoint.loops(parts[1])] == [9, 5]
    shutil.rmtree(parts[1] / "checkpoint")
    fit(models(), seeds, parts, data, CONFIG, resume=True)
    for a, b in zip(whole, parts, strict=True):
        assert_same(checkpoint.load(a), checkpoint.load(b))
        assert lines(a) == lines(b)
    shutil.rmtree(parts[0] / "checkpoint.old")
    shutil.rmtree(parts[1] / "checkpoint")
    with pytest.raises(UserError, match="no step in common"):
        fit(models(), seeds, parts, data, CONFIG, resume=True)


def test_a_stack_of_seeds_goes_on_as_a_stack(tmp_path):
    data, seeds = training_data(), [0, 1]
    whole = [tmp_path / f"whole-{s}" for s in seeds]
    parts = [tmp_path / f"parts-{s}" for s in seeds]
    models = lambda: [built("vae-gaussian", s) for s in seeds]  # noqa: E731
    fit(models(), seeds, whole, data, CONFIG)
    with pytest.raises(StopRequested):
        fit(models(), seeds, parts, interrupting(data, 9), CONFIG)
    fit(models(), seeds, parts, data, CONFIG, resume=True)
    for a, b in zip(whole, parts, strict=True):
        assert_same(checkpoint.load(a), checkpoint.load(b))


def test_going_on_with_a_finished_training_changes_nothing(tmp_path):
    data = training_data()
    fit([built("vae-gaussian")], [0], [tmp_path], data, CONFIG)
    before, logged = checkpoint.load(tmp_path), lines(tmp_path)
    fit([built("vae-gaussian")], [0], [tmp_path], data, CONFIG, resume=True)
    assert_same(before, checkpoint.load(tmp_path))
    assert lines(tmp_path) == logged


def test_ctrl_c_in_the_last_step_is_heard_when_that_is_saved(tmp_path):
    with pytest.raises(StopRequested, match="stopped at step 12 of 12; everything is saved"):
        fit([built("vae-gaussian")], [0], [tmp_path], interrupting(training_data(), 12), CONFIG)
    assert checkpoint.load(tmp_path).loop["step"] == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["validate", "save"])
def test_a_signal_at_the_end_of_a_training_is_heard(number, when, tmp_path, monkeypatch):
    """A batch system sends one: the next training must not begin."""
    owner, name = {"validate": (Trainer, "validate"), "save": (fit_module, "save")}[when]
    does = getattr(owner, name)

    def then(trainer):
        if trainer.step == trainer.steps:
            signal.raise_signal(number)
        return does(trainer)

    monkeypatch.setattr(owner, name, then)
    with pytest.raises(StopRequested, match="step 12 of 12") as stopped:
        fit([built("vae-gaussian")], [0], [tmp_path], training_data(), CONFIG)
    assert stopped.value.number == number
    monkeypatch.undo()
    assert fit([built("vae-gaussian")], [0], [tmp_path], training_data(), CONFIG, resume=True) == []


def test_a_failure_is_told_although_a_signal_came_with_it(tmp_path):
    """Else the run would be queued again, and fail again."""
    model = built("vae-gaussian")
    loss, calls = model.loss, []

    def failing(x, noise):
        calls.append(x)
        if len(calls) < 9:
            return loss(x, noise)
        signal.raise_signal(signal.SIGTERM)
        return loss(x, noise) * float("nan")

    model.loss = failing
    (failure,) = fit([model], [0], [tmp_path], training_data(), CONFIG)
    assert failure.seed == 0


def test_a_signal_during_the_progress_display_is_heard(tmp_path):
    def progress(said):
        if said.step >= 6:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StopRequested, match="stopped at step 6 of 12; everything is saved"):
        fit([built("vae-gaussian")], [0], [tmp_path], training_data(), CONFIG, progress=progress)
    assert checkpoint.exists(tmp_path)


def test_a_second_ctrl_c_stops_at_once():
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_going_on_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        fit([built("vae-gaussian")], [0], [tmp_path], training_data(), CONFIG, resume=True)


@pytest.mark.parametrize(
    ("seed", "epochs", "batch", "said"),
    [
        (4, 4, 8, "seed = 3, and 4 is asked for"),
        (3, 8, 8, "steps = 12, and 24 is asked for"),
        (3, 8, 16, "batch_size = 8, and 16 is asked for"),
    ],
)
def test_going_on_with_another_training_is_refused(seed, epochs, batch, said, tmp_path):
    data = training_data()
    fit([built("vae-gaussian")], [3], [tmp_path], data, CONFIG)
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "checkpoint").iterdir())
    other = dataclasses.replace(CONFIG, epochs=epochs, batch_size=batch)
    with pytest.raises(UserError, match=said):
        fit([built("vae-gaussian")], [seed], [tmp_path], data, other, resume=True)
    assert before == sorted((p.name, p.read_bytes()) for p in (tmp_path / "checkpoint").iterdir())
