"""A run that is done again comes out the same, and one that was tampered with does not."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.cli import main
from triptych.study import display
from triptych.train import checkpoint
from triptych.train.files import sealed

WORDS = ["train", "vae", "--epochs", "0.5", "--batch-size", "64", "--latent-dim", "2"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*WORDS, "--out", "r"])
    run = tmp_path / "r" / "vae-gaussian" / "seed-0"
    main(["evaluate", str(run), "--importance-samples", "5", "--images", "40"])
    return run


def again(run, code, capsys):
    capsys.readouterr()
    if code == 0:
        main(["reproduce", str(run), "--out", "again"])
    else:
        with pytest.raises(SystemExit) as left:
            main(["reproduce", str(run), "--out", "again"])
        assert left.value.code == code
    return capsys.readouterr()


def test_a_run_comes_out_the_same(run, capsys):
    said = again(run, 0, capsys).out
    assert not re.search("DIFFERENT", said)
    for what in (*checkpoint.FILES, "metrics", "elbo", "iwae-5"):
        assert re.search(rf"^{what} .* equal$", said, re.MULTILINE)
    assert said.endswith(f"seed-0 came out the same in all {said.count(' equal')}\n")
    assert "exists; delete it" in again(run, 2, capsys).err


def test_the_run_itself_is_not_to_be_deleted(run, capsys):
    with pytest.raises(SystemExit) as left:
        main(["reproduce", str(run), "--out", "r"])
    assert left.value.code == 2
    assert "is the run itself; choose another --out" in capsys.readouterr().err


def test_other_images_are_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def write(seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (90, 8, 8), dtype=np.uint8)
        np.savez("mine.npz", train_images=pixels[:60], test_images=pixels[60:])

    write(0)
    asked = ["--dataset", "mine", "--data", ".", "--epochs", "1", "--batch-size", "20"]
    main(["train", "vae", *asked, "--out", "r"])
    write(1)
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "r/vae-gaussian/seed-0", "--data", ".", "--out", "again"])
    assert left.value.code == 2
    assert "other images" in capsys.readouterr().err
    assert not Path("again").exists()


@pytest.mark.parametrize("what", ["weights", "log", "score", "lost", "added"])
def test_what_is_different_is_named(run, what, capsys):
    if what == "weights":
        saved = checkpoint.load(run)
        saved.ema = {k: v + 1e-6 * torch.ones_like(v) for k, v in saved.ema.items()}
        checkpoint.save(run, saved)
        name = "ema"
    elif what == "log":
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:-1]))
        name = "metrics"
    else:
        plain = json.loads((run / "scores.json").read_text())
        first, name = plain["scores"][0], "elbo"
        if what == "score":
            first["value"] += 1e-9
        elif what == "lost":
            plain["scores"].remove(first)
        else:
            name = "of-mine"
            plain["scores"].append(first | {"metric": name})
        (run / "scores.json").write_text(json.dumps(sealed(plain)))
    said = again(run, 1, capsys)
    assert re.findall(r"^(\S+) .* DIFFERENT$", said.out, re.MULTILINE) == [name]
    assert f"came out differently in {name};" in said.err


def test_an_unfinished_run_is_not_compared(run, capsys):
    saved = checkpoint.load(run)
    saved.loop["step"] -= 1
    checkpoint.save(run, saved)
    assert "train it to its end first" in again(run, 2, capsys).err


def test_a_reproduction_that_was_stopped_goes_on(run, capsys, tmp_path, monkeypatch):
    def interrupt(title):
        return lambda said: signal.raise_signal(signal.SIGINT) if said.step < 9 else None

    with monkeypatch.context() as patch:
        patch.setattr(display, "bar_for", interrupt)
        assert "the same command" in again(run, 1, capsys).err
    assert not re.search("DIFFERENT", again(run, 0, capsys).out)


def test_scores_that_say_not_how_they_were_judged_are_left_out(run, capsys):
    plain = json.loads((run / "scores.json").read_text())
    del plain["evaluation"], plain["sha256"]
    (run / "scores.json").write_text(json.dumps(plain))
    assert "elbo" not in again(run, 0, capsys).out
    shutil.rmtree("again")
    (run / "scores.json").unlink()
    assert "metrics" in again(run, 0, capsys).out
