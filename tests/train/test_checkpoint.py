import dataclasses
import errno
import json
import os
import shutil
import subprocess

import pytest
import torch

from triptych.errors import UserError
from triptych.train import checkpoint, files
from triptych.train.checkpoint import Checkpoint
from triptych.train.resume import common_step


def example(value=1.0):
    def tensors(n):
        return {"a": torch.full((2, 3), value), "b": torch.ones(n, 2).T}

    return Checkpoint(
        tensors(2), tensors(3), tensors(4), tensors(5), {"step": 7, "best": value, "seconds": 0.5}
    )


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path, example())
    loaded = checkpoint.load(tmp_path)
    for name in checkpoint.FILES:
        torch.testing.assert_close(getattr(loaded, name), getattr(example(), name))
    assert loaded.loop == example().loop


def test_early_weights_are_optional(tmp_path):
    checkpoint.save(tmp_path, example())
    assert checkpoint.load(tmp_path).early == {}
    early = {"a": torch.arange(3.0)}
    checkpoint.save(tmp_path, dataclasses.replace(example(), early=early))
    torch.testing.assert_close(checkpoint.load(tmp_path).early, early)


def test_a_save_by_another_process_meanwhile_is_no_damage(tmp_path, monkeypatch):
    """It renames the folders: read once more, they are whole."""
    checkpoint.save(tmp_path, example(1.0))
    read, tries = checkpoint._read, []

    def renamed_meanwhile(place):
        tries.append(place)
        if len(tries) == 1:
            raise checkpoint.Damaged("model.safetensors cannot be read (No such file)")
        return read(place)

    monkeypatch.setattr(checkpoint, "_read", renamed_meanwhile)
    assert checkpoint.load(tmp_path).loop["best"] == 1.0
    assert len(tries) == 2


def test_there_is_no_pickle(tmp_path):
    checkpoint.save(tmp_path, example())
    suffixes = {p.suffix for p in (tmp_path / "checkpoint").iterdir() if p.name != checkpoint.SUMS}
    assert suffixes == {".safetensors", ".json"}


def test_saving_again_replaces_the_whole_checkpoint_and_keeps_the_one_before(tmp_path):
    for value in (1.0, 2.0, 3.0):
        checkpoint.save(tmp_path, example(value))
    assert checkpoint.load(tmp_path).loop["best"] == 3.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "checkpoint.old"]
    (tmp_path / "checkpoint").rename(tmp_path / "gone")
    assert checkpoint.load(tmp_path).loop["best"] == 2.0


def at_step(step):
    return dataclasses.replace(example(), loop=example().loop | {"step": step})


def test_two_seeds_that_lose_a_save_each_still_have_a_step_in_common(tmp_path):
    """Both have 100; the first alone saves 200; they go back to 100, and it alone saves 150."""
    both = [tmp_path / "0", tmp_path / "1"]
    for step, folders in ((50, both), (100, both), (200, both[:1]), (150, both[:1])):
        for folder in folders:
            checkpoint.save(folder, at_step(step))
    assert [loop["step"] for loop in checkpoint.loops(both[0])] == [150, 100]
    assert common_step(both) == 100


def test_a_crash_between_the_renames_leaves_the_old_one(tmp_path):
    checkpoint.save(tmp_path, example(1.0))
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert checkpoint.exists(tmp_path)
    assert checkpoint.load(tmp_path).loop["best"] == 1.0
    checkpoint.save(tmp_path, example(2.0))
    assert checkpoint.load(tmp_path).loop["best"] == 2.0


@pytest.mark.parametrize("files", [0, 2, 5, 6])
def test_a_full_disk_leaves_the_last_whole_one_and_nothing_half_written(
    tmp_path, files, monkeypatch
):
    checkpoint.save(tmp_path, example(1.0))
    written, write = [], checkpoint.write_flushed

    def filling(path, raw):
        written.append(path)
        if len(written) > files:
            path.write_bytes(raw[: len(raw) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, raw)

    monkeypatch.setattr(checkpoint, "write_flushed", filling)
    if files == 6:  # every file is written, and one is not what was written
        monkeypatch.setattr(checkpoint, "write_flushed", lambda p, raw: write(p, raw[:-1] + b"!"))
    with pytest.raises(OSError, match="checkpoint") as caught:
        checkpoint.save(tmp_path, example(2.0))
    assert caught.value.errno == (errno.EIO if files == 6 else errno.ENOSPC)
    assert checkpoint.load(tmp_path).loop["best"] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    assert not checkpoint.exists(tmp_path)
    with pytest.raises(UserError, match="no checkpoint; train it first"):
        checkpoint.load(tmp_path)


def test_a_damaged_newest_one_gives_way_to_the_one_before_and_says_so(tmp_path, capsys):
    checkpoint.save(tmp_path, example(1.0))
    checkpoint.save(tmp_path, example(2.0))
    path = tmp_path / "checkpoint" / "ema.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 4
    path.write_bytes(raw)
    assert checkpoint.load(tmp_path).loop["best"] == 1.0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "checkpoint/ema.safetensors is damaged" in said
    assert "of step 7" in said
    assert [loop["best"] for loop in checkpoint.loops(tmp_path)] == [1.0]


def test_a_damaged_one_never_takes_the_place_of_a_whole_one(tmp_path):
    checkpoint.save(tmp_path, example(1.0))
    checkpoint.save(tmp_path, example(2.0))
    (tmp_path / "checkpoint" / "loop.json").write_text("{}")
    checkpoint.save(tmp_path, example(3.0))
    assert [loop["best"] for loop in checkpoint.loops(tmp_path)] == [3.0, 1.0]


def test_where_none_is_whole_every_damaged_file_is_named(tmp_path):
    checkpoint.save(tmp_path, example())
    checkpoint.save(tmp_path, example())
    (tmp_path / "checkpoint" / "ema.safetensors").write_bytes(b"short")
    (tmp_path / "checkpoint.old" / checkpoint.SUMS).write_bytes(b"")
    with pytest.raises(UserError, match=r"no whole checkpoint .*ema\.safetensors .*SHA256SUMS"):
        checkpoint.load(tmp_path)


def test_the_one_of_a_step_can_be_asked_for(tmp_path):
    checkpoint.save(tmp_path, example(1.0))
    later = example(2.0)
    later.loop["step"] = 9
    checkpoint.save(tmp_path, later)
    assert [loop["step"] for loop in checkpoint.loops(tmp_path)] == [9, 7]
    assert checkpoint.load(tmp_path, 7).loop["best"] == 1.0
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.load(tmp_path, 8)


def test_checkpoints_of_earlier_versions_have_no_sums_and_are_read(tmp_path):
    checkpoint.save(tmp_path, example())
    (tmp_path / "checkpoint" / checkpoint.SUMS).unlink()
    assert checkpoint.load(tmp_path).loop["step"] == 7
    checkpoint.save(tmp_path, example(2.0))
    assert len(checkpoint.loops(tmp_path)) == 2
    for name in checkpoint.PLACES:
        (tmp_path / name / checkpoint.SUMS).unlink(missing_ok=True)
        (tmp_path / name / "ema.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"ema\.safetensors cannot be read"):
        checkpoint.load(tmp_path)


def test_sha256sum_reads_the_sums(tmp_path):
    if shutil.which("sha256sum") is None:
        pytest.skip("this machine has no sha256sum")
    checkpoint.save(tmp_path, example())
    words = ["sha256sum", "--check", "--strict", "--quiet", checkpoint.SUMS]
    assert subprocess.run(words, cwd=tmp_path / "checkpoint").returncode == 0


def test_sums_that_name_a_file_elsewhere_open_nothing(tmp_path):
    checkpoint.save(tmp_path, example())
    with open(tmp_path / "checkpoint" / checkpoint.SUMS, "a") as sums:
        sums.write(f"{'0' * 64}  ../../secret\n")
    with pytest.raises(UserError, match="do not belong together"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("wrong", ["shape", "type", "name"])
def test_weights_of_another_model_are_refused(tmp_path, wrong):
    model = torch.nn.Linear(2, 3)
    tensors = dict(model.state_dict())
    if wrong == "shape":
        tensors["bias"] = torch.zeros(1)
    elif wrong == "type":
        tensors["bias"] = torch.zeros(3, dtype=torch.int64)
    else:
        tensors["Bias"] = tensors.pop("bias")
    with pytest.raises(UserError, match=r"[bB]ias does not fit"):
        checkpoint.load_into(model, tensors, tmp_path)


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.json"
    files.write_text(path, json.dumps(1))

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*x\.json"):
        files.write_text(path, json.dumps(2))
    assert json.loads(path.read_text()) == 1
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
