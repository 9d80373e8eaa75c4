import dataclasses
import json

import pytest
import torch

from triptych.protocols import UserError
from triptych.train import checkpoint
from triptych.train.checkpoint import Checkpoint


def example(value=1.0):
    def tensors(n):
        return {"a": torch.full((2, 3), value), "b": torch.ones(n, 2).T}

    return Checkpoint(tensors(2), tensors(3), tensors(4), tensors(5), {"step": 7, "best": value})


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path, example())
    loaded = checkpoint.load(tmp_path)
    for name in checkpoint.FILES:
        torch.testing.assert_close(getattr(loaded, name), getattr(example(), name))
    assert loaded.loop == {"step": 7, "best": 1.0}


def test_early_weights_are_optional(tmp_path):
    checkpoint.save(tmp_path, example())
    assert checkpoint.load(tmp_path).early == {}
    early = {"a": torch.arange(3.0)}
    checkpoint.save(tmp_path, dataclasses.replace(example(), early=early))
    torch.testing.assert_close(checkpoint.load(tmp_path).early, early)


def test_there_is_no_pickle(tmp_path):
    checkpoint.save(tmp_path, example())
    suffixes = {p.suffix for p in (tmp_path / "checkpoint").iterdir()}
    assert suffixes == {".safetensors", ".json"}


def test_saving_again_replaces_the_whole_checkpoint(tmp_path):
    checkpoint.save(tmp_path, example(1.0))
    checkpoint.save(tmp_path, example(2.0))
    assert checkpoint.load(tmp_path).loop["best"] == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_crash_between_the_renames_leaves_the_old_one(tmp_path):
    checkpoint.save(tmp_path, example(1.0))
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert checkpoint.exists(tmp_path)
    assert checkpoint.load(tmp_path).loop["best"] == 1.0
    checkpoint.save(tmp_path, example(2.0))
    assert checkpoint.load(tmp_path).loop["best"] == 2.0


@pytest.mark.parametrize("files", [0, 2, 4])
def test_a_crash_while_writing_leaves_the_last_whole_one(tmp_path, files, monkeypatch):
    checkpoint.save(tmp_path, example(1.0))
    written, save_file = [], checkpoint.save_file

    def failing(tensors, path):
        if len(written) == files:
            raise OSError("the disk is full")
        written.append(path)
        save_file(tensors, path)

    if files == 4:
        monkeypatch.setattr(checkpoint, "_fsync", lambda path: (_ for _ in ()).throw(OSError()))
    else:
        monkeypatch.setattr(checkpoint, "save_file", failing)
    with pytest.raises(OSError):
        checkpoint.save(tmp_path, example(2.0))
    assert checkpoint.load(tmp_path).loop["best"] == 1.0


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    assert not checkpoint.exists(tmp_path)
    with pytest.raises(UserError, match="without --resume"):
        checkpoint.load(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    checkpoint.save(tmp_path, example())
    (tmp_path / "checkpoint" / "ema.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"ema\.safetensors cannot be read"):
        checkpoint.load(tmp_path)


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.json"
    checkpoint.write_text(path, json.dumps(1))
    monkeypatch.setattr(checkpoint, "_fsync", lambda path: (_ for _ in ()).throw(OSError()))
    with pytest.raises(OSError):
        checkpoint.write_text(path, json.dumps(2))
    assert json.loads(path.read_text()) == 1
