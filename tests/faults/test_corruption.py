"""Files that are damaged or hostile: refused in one sentence or read as they were, never a wrong
answer and never a traceback. TRIPTYCH_CORRUPTIONS=1000 damages each kind of file so often."""

import gzip
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch

from triptych.cli import main
from triptych.data.idx import header, read_idx
from triptych.errors import UserError
from triptych.evaluate.classifier import CourseNet, course_features
from triptych.evaluate.evaluation import Evaluation, Judgement
from triptych.protocols import Score
from triptych.report import arrays
from triptych.report.arrays import read_npz
from triptych.report.explorer import write_explorer
from triptych.report.load import read_study
from triptych.study.recipes import recipes_for
from triptych.study.store import RunFolder
from triptych.study.study_file import from_toml
from triptych.train import checkpoint
from triptych.train.checkpoint import Checkpoint
from triptych.train.files import read_json, sealed
from triptych.train.fit import cut_log

TIMES = int(os.environ.get("TRIPTYCH_CORRUPTIONS", "40"))


def damaged(raw, rng):
    """A bit flipped, the end cut off, a block of zeros, noise over a stretch, or bytes put in."""
    at, n = int(rng.integers(len(raw))), int(rng.integers(1, 65))
    match int(rng.integers(5)):
        case 0:
            return raw[:at] + bytes([raw[at] ^ (1 << int(rng.integers(8)))]) + raw[at + 1 :]
        case 1:
            return raw[:at]
        case 2:
            return raw[:at] + bytes(len(raw[at : at + n])) + raw[at + n :]
        case 3:
            return raw[:at] + rng.bytes(len(raw[at : at + n])) + raw[at + n :]
        case _:
            return raw[:at] + rng.bytes(n) + raw[at:]


def answer(read):
    """What is read, or None where it is refused in one sentence."""
    try:
        return read()
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000
    return None


def survives(paths, read, same, rng):
    """Damage one of the files at a time; counts the refusals."""
    refused = 0
    for trial in range(TIMES):
        path = paths[trial % len(paths)]
        intact = path.read_bytes()
        path.write_bytes(damaged(intact, rng))
        found = answer(read)
        assert found is None or same(found), (path, trial)
        refused += found is None
        path.write_bytes(intact)
    assert answer(read) is not None
    return refused


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def example(step):
    generator = torch.Generator().manual_seed(step)
    parts = [{"w": torch.randn(5, 7, generator=generator)} for _ in range(4)]
    return Checkpoint(*parts, {"step": step, "best": 1.5, "seconds": 2.0, "steps": 9})


def equal(a, b):
    whole = all(torch.equal(getattr(a, n)["w"], getattr(b, n)["w"]) for n in checkpoint.FILES)
    return whole and a.loop == b.loop


def test_a_checkpoint(tmp_path, rng, capsys):
    """With one before, nothing is ever refused: it is the newest, or the one before and said so."""
    checkpoint.save(tmp_path, example(3))
    paths = sorted((tmp_path / "checkpoint").iterdir())
    read = lambda: checkpoint.load(tmp_path)  # noqa: E731
    assert survives(paths, read, lambda c: equal(c, example(3)), rng) > 0.9 * TIMES
    checkpoint.save(tmp_path, example(4))
    paths = sorted((tmp_path / "checkpoint").iterdir())
    capsys.readouterr()

    def same(found):
        warned = capsys.readouterr().err.count("taking the checkpoint before, of step 3")
        return equal(found, example(3) if warned else example(4))

    assert survives(paths, read, same, rng) == 0


def test_a_training_whose_checkpoints_are_all_damaged(tmp_path, capsys):
    command = ["train", "vae", "--epochs", "3", "--out", str(tmp_path)]
    main(command)
    for file in tmp_path.glob("*/seed-0/checkpoint*/*"):
        file.write_bytes(file.read_bytes()[:40])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([*command, "--resume"])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("triptych: ")
    assert "checkpoint" in said


def test_a_checkpoint_of_an_earlier_version(tmp_path, rng):
    checkpoint.save(tmp_path, example(3))
    (tmp_path / "checkpoint" / checkpoint.SUMS).unlink()
    paths = sorted((tmp_path / "checkpoint").iterdir())
    assert survives(paths, lambda: checkpoint.load(tmp_path), lambda c: True, rng) > 0


@pytest.fixture
def run(tmp_path, digits):
    folder = RunFolder(tmp_path / "vae-mixture" / "seed-3")
    folder.claim(recipes_for("digits")["vae-mixture"], digits, 3)
    scores = [Score("elbo", -80.123456, "nats", 0.01, {"n": 5}), Score("fid", 4.0, "")]
    cloud = {"posterior": np.arange(40.0).reshape(20, 2), "components": np.asarray("pca")}
    folder.write_judgement(Judgement(scores, {"latent": cloud}), Evaluation())
    return folder


def test_the_config_of_a_run(run, rng):
    original = run.config()
    assert survives([run.path / "config.json"], run.config, original.__eq__, rng) > 0.7 * TIMES


def test_the_scores_of_a_run(run, rng):
    original = run.scores()
    assert survives([run.path / "scores.json"], run.scores, original.__eq__, rng) > 0.7 * TIMES


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("config.json", '"components": 50', '"components": 51'), ("scores.json", "-80.12", "-81.12")],
)
def test_a_digit_that_changed_is_seen(run, name, old, new):
    text = (run.path / name).read_text()
    assert old in text
    (run.path / name).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=f"{name} cannot be read .its sha256 is not that of"):
        run.config() if name == "config.json" else run.scores()


def test_why_a_run_failed(run, rng):
    run.write_failure("log_px was not finite at step 3")
    survives([run.path / "failure.json"], lambda: run.failure() or "", lambda f: True, rng)


def test_the_arrays_of_a_run(run, rng):
    path = run.path / "latent.npz"
    original = read_npz(path, ("posterior", "components"))

    def same(found):
        return all(np.array_equal(found[name], original[name]) for name in original)

    read = lambda: read_npz(path, tuple(original))  # noqa: E731
    assert survives([path], read, same, rng) > 0.5 * TIMES


def a_study():
    """(study.json, results.json) of one model with one score."""
    known = {"name": "t", "title": "T", "part": "A", "family": "vae", "prior": None, "view": "raw"}
    recipe = known | {"latent_dim": 2, "epochs": 1.5, "parameters": 9, "architecture": "a"}
    row = {"model": "t", "metric": "elbo", "unit": "nats", "mean": -80.25, "std": None}
    row |= {"n_seeds": 1, "seeds": [0], "values": [-80.25]}
    asked = {"schema": 1, "name": "s", "dataset": "digits", "seeds": [0], "recipes": [recipe]}
    return asked, {"schema": 1, "study": "s", "scores": [row], "failures": []}


def test_a_study_and_its_results(tmp_path, rng):
    paths = [tmp_path / "study.json", tmp_path / "results.json"]
    for path, plain in zip(paths, a_study(), strict=True):
        path.write_text(json.dumps(sealed(plain)))
    original = read_study(tmp_path)
    assert survives(paths, lambda: read_study(tmp_path), original.__eq__, rng) > 0.7 * TIMES
    for path, plain in zip(paths, a_study(), strict=True):
        path.write_text(json.dumps(plain))  # of an earlier version, without a seal
    survives(paths, lambda: read_study(tmp_path), lambda s: True, rng)


def test_what_a_page_shows_of_a_run(tmp_path, rng):
    for name, plain in zip(("study.json", "results.json"), a_study(), strict=True):
        (tmp_path / name).write_text(json.dumps(sealed(plain)))
    run = tmp_path / "t/seed-0"
    run.mkdir(parents=True)
    images = rng.integers(0, 256, (16, 1, 8, 8)).astype(np.uint8)
    for name in ("samples", "nearest"):
        np.savez_compressed(run / f"{name}.npz", images=images)
    rows = [{"step": s, "loss": 80.5 - s, "validation": 81} for s in range(1, 9)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    costs = {"seconds": {"train": 12.5}, "peak_memory_bytes": 2**30, "finished": "2026-11-26"}
    costs |= {"device": "cpu: x", "threads": 1, "libraries": {"torch": "2"}, "git_commit": None}
    (run / "manifest.json").write_text(json.dumps(costs))
    paths = sorted(run.iterdir())
    assert survives(paths, lambda: write_explorer(tmp_path), lambda page: True, rng) > 0.3 * TIMES


def test_a_study_file(tmp_path, rng):
    text = (
        '[[recipe]]\nbase = "vae-flow"\nname = "a"\nhidden = [32, 8]\n[evaluation]\nbf16 = true\n'
    )
    (tmp_path / "s.toml").write_text(text)
    survives([tmp_path / "s.toml"], lambda: from_toml(tmp_path / "s.toml"), lambda s: True, rng)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_data_file(tmp_path, rng, pack):
    """What no checksum covers (none of its own, no official one) may change; its shape may not."""
    path, shape = tmp_path / "images", (20, 4, 5)
    path.write_bytes(pack(header(shape) + rng.bytes(400)))
    original = read_idx(path, shape)

    def same(found):
        return found == original or (pack is bytes and len(found) == len(original))

    survives([path], lambda: read_idx(path, shape), same, rng)


def test_the_log_of_a_run(tmp_path, rng):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in range(20)))
    intact = path.read_bytes()
    for _ in range(TIMES):
        path.write_bytes(damaged(intact, rng))
        cut_log(path, 10)
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert all(step <= 10 for step in steps)


def test_the_courses_classifier(tmp_path, rng):
    torch.manual_seed(0)
    path = tmp_path / "mnist_classifier.pth"
    torch.save(CourseNet().state_dict(), path)
    intact = path.read_bytes()
    hashes = {course_features(path, (1, 28, 28)).hash}
    for _ in range(TIMES // 4):
        path.write_bytes(damaged(intact, rng))
        found = answer(lambda: course_features(path, (1, 28, 28)))
        # What is read in spite of the damage is scored under another hash, never mixed in.
        assert found is None or found.hash not in hashes


def bomb(member, raw, announced=None):
    """A zip whose member says that it is shorter or longer than it is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, raw)
        if announced is not None:
            archive.getinfo(member).file_size = announced
    return buffer.getvalue()


def npy(shape, values=b"", dtype="<f8"):
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue() + values


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (lambda: bomb("a.npy", npy((10**12,))), "not as long as its shape"),
        (lambda: bomb("a.npy", npy((-1, 5))), "not as long as its shape"),
        (lambda: bomb("a.npy", npy((4,), bytes(800))), "not as long as its shape"),
        (lambda: bomb("a.npy", npy((1,), b"cos\nsystem\n(S'true'\ntR.", "|O")), "type object"),
        (lambda: bomb("a.npy", npy((4,), bytes(32)), 2**40), "announces 1,099,511,627,776 bytes"),
        (lambda: bomb("../a.npy", npy((4,), bytes(32))), "no item named"),
        (lambda: b"no zip at all", "not a zip file"),
    ],
)
def test_arrays_that_announce_what_they_are_not_cost_no_memory(tmp_path, raw, words):
    (tmp_path / "x.npz").write_bytes(raw())
    with pytest.raises(UserError, match=words):
        read_npz(tmp_path / "x.npz", ("a",))


def test_an_array_larger_than_any_of_ours_is_not_decompressed(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MOST", 10_000)
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(2_000))
    with pytest.raises(UserError, match="10,000 are allowed"):
        read_npz(tmp_path / "x.npz", ("a",))


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "3", '"x"', '{"schema": 1, "sha256": 3}'])
def test_json_that_is_none_of_ours(tmp_path, text, run):
    for name, read in (("config.json", run.config), ("scores.json", run.scores)):
        (run.path / name).write_text(text)
        assert answer(read) is None
    (tmp_path / "study.json").write_text(text)
    (tmp_path / "results.json").write_text(text)
    assert answer(lambda: read_study(tmp_path)) is None


def test_json_too_large_to_be_ours_is_not_read(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**27)
    with pytest.raises(UserError, match="more than 67,108,864 bytes"):
        read_json(tmp_path / "x.json")


def test_a_config_that_climbs_out_is_refused(run, capsys):
    plain = json.loads((run.path / "config.json").read_text())
    for key, value in (("recipe", plain["recipe"] | {"name": "../../up"}), ("dataset", "../x")):
        (run.path / "config.json").write_text(json.dumps(sealed(plain | {key: value})))
        with pytest.raises(SystemExit) as left:
            main(["evaluate", str(run.path)])
        assert left.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_study_file_whose_name_climbs_out_is_refused(tmp_path):
    (tmp_path / "...toml").write_text('[[recipe]]\nbase = "vae-flow"\n')
    with pytest.raises(UserError, match="cannot name a folder"):
        from_toml(tmp_path / "...toml")
