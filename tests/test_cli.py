"""The command line as a user meets it: what it writes, what it says, with which exit code."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from triptych.cli import COMMANDS, main
from triptych.cli.refusals import refusal
from triptych.cli.words import mended
from triptych.data import load
from triptych.ddpm import DDPM
from triptych.errors import UserError
from triptych.evaluate import classifier
from triptych.evaluate.classifier import features_for
from triptych.evaluate.drawing import TOGETHER
from triptych.evaluate.evaluation import Evaluation, Judgement
from triptych.report.load import Recipe, Study, Summary
from triptych.study import display, local
from triptych.study.lock import HeldError, locked
from triptych.study.store import RunFolder
from triptych.train import checkpoint

TINY = ["--epochs", "0.2", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """Nothing is written beside the user's own files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIPTYCH_DATA", raising=False)


def refused(capsys, *words):
    """Exit code 2 and one line on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert said.err.startswith("triptych: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["study", "nope"], "nope"),
        (["study", "none.toml"], "none.toml"),
        (["train", "gan"], "gan"),
        (["train", "ddpm", "--latent-dim", "3"], "latent_dim"),
        (["train", "vae", "--epochs", "-1"], "epochs"),
        (["train", "vae", "--lr", "nan"], "lr"),
        (["train", "vae", "--resume"], "--resume"),
        (["train", "vae", "--seed", "-1"], "seed"),
        (["sample", "nowhere", "--seed", "-1"], "seed"),
        (["evaluate", "nowhere"], "nowhere"),
        (["sample", "nowhere"], "nowhere"),
        (["sample", "nowhere", "-n", "0"], "-n 0"),
        (["sample", "nowhere", "--out", "grid.gif"], "grid.gif"),
        (["score", "nowhere.npz"], "nowhere.npz"),
        (["score", "nowhere.npz", "--out", "scores.txt"], "scores.txt"),
        (["report", "nowhere"], "nowhere"),
        (["explore", "nowhere"], "nowhere"),
        (["train", "vae", "--device", "mps"], "mps"),
        (["train", "vae", "--dataset", "mnist", "--data", "nowhere"], "nowhere"),
        (["train", "vae", "--set", "hidden"], "--set hidden"),
        (["train", "vae", "--set", "hiden=3"], "hiden"),
        (["study", "demo", "--workers", "-1"], "--workers -1"),
        (["study", "demo", "--preset", "gpu"], "--preset gpu"),
        (["study", "mine.toml", "--preset", "cpu"], "--preset cpu"),
        (["study", "demo", "--dataset", "mnist"], "--dataset mnist"),
        (["study", "demo", "--gpus-per-run", "0.5"], "--gpus-per-run 0.5"),
        (["data", "fetch", "mnist", "--data", "nowhere"], "nowhere"),
        (["train-features", "digits", "--out", "f.pth"], "f.pth"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(words, named, capsys):
    if words[-1] == "mps":
        import torch

        if torch.backends.mps.is_available():
            pytest.skip("this machine has one")
    assert named in refused(capsys, *words)


PLACE = "stands where a command belongs; begin with one of demo, study, train, "
UNPARSED = [
    ([], "a command is missing; choose one of demo, study, train, "),
    (["flee"], "there is no command 'flee'; choose one of demo, study, train, "),
    (["--seed", "3", "train", "vae"], f"--seed {PLACE}"),
    (["train"], "train needs RECIPE (vae, pixelflow, ddpm, "),
    (
        ["train-features"],
        "train-features needs {digits,mnist,fashion,kmnist,OWN} (data set whose labels to "
        "learn) and --out PATH (.safetensors file to write, in half precision); triptych tr",
    ),
    (["train", "vae", "--epochs"], "--epochs needs a value; triptych train --help lists"),
    (["train", "vae", "--batch_size"], "--batch-size needs a value; triptych train --help lists"),
    (["train", "vae", "--epoch", "3"], "train has no option --epoch; --epochs is the nearest;"),
    (["train", "--epoch=3", "vae"], "train has no option --epoch; --epochs is the nearest; tr"),
    (["sample", "r", "--epoch", "3"], "sample has no option --epoch; triptych sample --help"),
    (["train", "vae", "--resume", "False"], "train does nothing with 'False'; triptych train"),
    (["report", "a", "b,c---d" + 40 * "/long"], "report does nothing with 'b,c---d/long/long/"),
    (["train", "vae", "--track", "wand"], "'wand' cannot be chosen; choose one of tensorboard, "),
]


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize(("words", "said"), UNPARSED)
def test_what_cannot_be_parsed_is_said_in_a_sentence(words, said, coloured, capsys, monkeypatch):
    """A flag is a flag: the text "False" is no way to switch it on. On a terminal the parser writes
    in colours."""
    monkeypatch.setattr("tyro._fmtlib._FORCE_ANSI", coloured, raising=False)
    assert refused(capsys, *words).startswith(f"triptych: {said}")


def test_a_refusal_of_another_kind_is_its_own_text():
    drawn = "╭─ Value error ─╮\n│ Error parsing │\n│ --x: too low  │\n╰───────────────╯\n"
    said = refusal(drawn, ["train", "vae", "--x=1"], ["--x"])
    assert said == "Value error Error parsing --x: too low"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) <= 50


def test_a_vae_is_trained_judged_and_sampled(capsys, tmp_path):
    main(["train", "vae", "--prior", "mixture", "--latent-dim", "3", *TINY, "--out", "r"])
    run = tmp_path / "r" / "vae-mixture" / "seed-0"
    assert f"{run.relative_to(tmp_path)}" in capsys.readouterr().out
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["model"]["latent_dim"] == 3
    assert config["recipe"]["train"]["batch_size"] == 64

    main(["evaluate", str(run), "--importance-samples", "5", "--images", "50"])
    said = capsys.readouterr().out
    scores = {s["metric"]: s for s in json.loads((run / "scores.json").read_text())["scores"]}
    assert scores["iwae-5"]["protocol"] | {"n": 50, "samples": 5} == scores["iwae-5"]["protocol"]
    assert "iwae-5" in said
    assert "scores.json" in said

    for command, option, value, owner in (
        ("sample", "temperature", "0.5", "pixel flow"),
        ("sample", "sampler", "heun", "DDPM or a latent DDPM"),
        ("sample", "rho", "7.5", "DDPM or a latent DDPM"),
        ("sample", "noise-below", "4.0", "DDPM or a latent DDPM"),
        ("evaluate", "steps", "20", "DDPM or a latent DDPM"),
        ("evaluate", "ode-images", "9", "DDPM"),
        ("evaluate", "set", "bound_draws=9", "pixel flow or a DDPM"),
    ):
        said = refused(capsys, command, str(run), f"--{option}", value)
        name, value = value.split("=") if option == "set" else (option.replace("-", "_"), value)
        assert f"{name} = {value} applies to a {owner}, not to a VAE" in said
    said = refused(capsys, "evaluate", str(run), "--features", "mnist_classifier.pth")
    assert "--features mnist_classifier.pth has no effect on vae-mixture" in said
    main(["sample", str(run), "-n", "9", "--out", "s.npz"])
    with np.load("s.npz", allow_pickle=False) as loaded:
        images = loaded["images"]
    assert images.dtype == np.uint8
    assert images.shape == (9, 1, 8, 8)
    assert set(np.unique(images)) <= {0, 255}


@pytest.mark.parametrize(
    ("recipe", "words", "needed"),
    [
        ("vae", ["--ais-steps", "3"], "ais_images"),
        ("vae", ["--set", "ais_chains=5"], "ais_images"),
        ("ddpm", ["--set", "ode_trace=exact"], "ode_images"),
    ],
)
def test_settings_of_what_is_not_asked_for_are_refused(recipe, words, needed, capsys, tmp_path):
    main(["train", recipe, *TINY, "--out", "r"])
    (run,) = (tmp_path / "r").glob("*/seed-0")
    assert f"has no effect without {needed}; give that too" in refused(
        capsys, "evaluate", str(run), *words
    )


def test_images_of_ones_own_are_learned_and_judged(capsys, tmp_path):
    rng = np.random.default_rng(0)
    parts = {"train": 40, "test": 20}
    images = {f"{p}_images": rng.integers(0, 256, (n, 6, 7), np.uint8) for p, n in parts.items()}
    labels = {f"{p}_labels": np.arange(n) % 3 for p, n in parts.items()}
    np.savez(tmp_path / "own.npz", **images, **labels)
    here = ["--dataset", "own", "--data", str(tmp_path)]
    main(["train", "vae", *here, "--epochs", "1", "--out", "a folder"])
    _, _, command = capsys.readouterr().out.strip().rpartition("judge it with: triptych ")
    main(shlex.split(command))
    scores = json.loads(Path("a folder/vae-gaussian/seed-0/scores.json").read_text())["scores"]
    assert {s["protocol"]["dataset"] for s in scores} == {"own"}
    assert scores[0]["protocol"]["n"] == 20


def test_a_ddpm_is_trained_judged_with_its_frechet_distance_and_sampled(
    digit_features, capsys, tmp_path, monkeypatch
):
    more = ["variance=learned", "schedule=linear", "widths=[8, 16]", "early=0.5"]
    main(["train", "ddpm", "--epochs", "0.1", "--out", "r", "--set", *more])
    run = tmp_path / "r" / "ddpm" / "seed-0"
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    found = {key: recipe["model"][key] for key in ("variance", "schedule", "widths")}
    assert found == {"variance": "learned", "schedule": "linear", "widths": [8, 16]}
    assert recipe["train"]["early"] == 0.5
    capsys.readouterr()
    how = ["--images", "50", "--steps", "2", "--eta", "0.5", "--set", "bound_draws=3"]
    main(["evaluate", str(run), *how])
    said = {row.split()[0]: row for row in capsys.readouterr().out.splitlines()}
    assert "N = 50; real images " in said["fid"]
    assert "N too small for " in said["fid"]
    assert "Monte Carlo error " in said["bpd"]
    scores = {s["metric"]: s for s in json.loads((run / "scores.json").read_text())["scores"]}
    fid = scores["fid"]["protocol"]
    assert fid["n"] == 50
    assert fid["feature_hash"] == digit_features.hash
    assert (fid["sampler"], fid["steps"], fid["eta"]) == ("ddim", 2, 0.5)
    assert 0 < fid["floor"] < scores["fid"]["value"]
    assert scores["bpd"]["value"] > 0

    for option in ("--steps", "--eta", "--noise-below", "--rho"):
        assert "every step" in refused(capsys, "sample", str(run), option, "50")
    words = ["sample", str(run), "-n", "2", "--sampler", "ddim", "--steps", "2"]
    for seed, name in ((0, "a.npz"), (0, "b.npz"), (1, "c.npz")):
        main([*words, "--seed", str(seed), "--out", name])
    a, b, c = (np.load(f"{n}.npz", allow_pickle=False)["images"] for n in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert "no effect with eta = 0" in refused(capsys, *words, "--noise-below", "4")
    main([*words, "--seed", "0", "--eta", "1", "--noise-below", "0.001", "--out", "e.npz"])
    assert np.array_equal(np.load("e.npz", allow_pickle=False)["images"], a)
    noisier = ["--sampler", "heun", "--steps", "3", "--out", "d.npz"]
    main([*words, *noisier])
    even = np.load("d.npz", allow_pickle=False)["images"]
    main([*words, *noisier, "--rho", "1"])
    assert not np.array_equal(np.load("d.npz", allow_pickle=False)["images"], even)
    assert "times of its own" in refused(capsys, *words, "--rho", "7")
    assert "choose 2 to 1000" in refused(capsys, *words, "--steps", "1001")
    assert "1 to 1,000,000 images" in refused(capsys, *words, "-n", "1000000000")
    twice = refused(capsys, "evaluate", str(run), "--images", "60", "--set", "images=50")
    assert "images = 60 and --set images=50 are given both" in twice
    twice = refused(capsys, "evaluate", str(run), "--set", "images=50", "images=60")
    assert "--set has images twice, 50 and 60" in twice
    sizes, start = [], DDPM.gaussian_noise
    monkeypatch.setattr(
        DDPM, "gaussian_noise", lambda self, n, g: sizes.append(n) or start(self, n, g)
    )
    main([*words, "-n", "501", "--out", "many.npz"])
    assert len(np.load("many.npz", allow_pickle=False)["images"]) == 501
    assert max(sizes) == TOGETHER < 501
    main([*words, "--out", "g.png"])
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")


def test_a_flow_is_judged_and_sampled_at_a_temperature(tmp_path):
    main(["train", "pixelflow-mlp", "--epochs", "0.2", "--out", "r"])
    run = tmp_path / "r" / "pixelflow-mlp" / "seed-0"
    main(["evaluate", str(run), "--images", "50", "--temperature", "0.5"])
    scores = {s["metric"]: s for s in json.loads((run / "scores.json").read_text())["scores"]}
    assert scores["fid"]["protocol"]["temperature"] == 0.5
    assert scores["bpd-iwae-4"]["value"] < scores["bpd"]["value"]
    for words, name in (([], "a"), (["--temperature", "0.5"], "b")):
        main(["sample", str(run), "-n", "2", *words, "--out", f"{name}.npz"])
    a, b = (np.load(f"{n}.npz", allow_pickle=False)["images"] for n in "ab")
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("train", "vae", "--prior", "vmap"), "gaussian, mixture, flow, spline, maf, vamp, res"),
        (("sample", "run", "--sampler", "vmap"), "ancestral, ddim, dpm-solver++, unipc, heun"),
        (("study", "demo", "--preset", "vmap"), "cpu, gpu"),
        (("data", "vmap", "digits"), "fetch, verify"),
    ],
)
def test_a_word_that_is_none_of_the_choices_is_refused_with_them(words, allowed, capsys):
    assert f"'vmap' cannot be chosen; choose one of {allowed}" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "vae", "--epochs", "abc"], "'abc' is not a number; write one, such as 0.5"),
        (["train", "vae", "--seed", "1.5"], "'1.5' is not a whole number; write one, such as 5"),
        (["sample", "run", "-n", "x"], "'x' is not a whole number; write one, such as 5"),
        (["train", "vae", "--epochs", "nan"], "epochs = nan is wrong: it must be a number"),
        # JSON has no infinity, and who reads config.json elsewhere would not read it.
        (["train", "vae", "--set", "clip=inf"], "clip = inf is wrong: it must be less than"),
    ],
)
def test_what_is_no_number_is_refused_in_a_sentence(words, said, capsys):
    assert said in refused(capsys, *words)


def test_torchrun_is_for_training_alone(capsys, monkeypatch, tmp_path):
    """Each of its processes would do all that a study does."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused(capsys, "study", "demo", "--out", str(tmp_path / "out"))
    assert "torchrun works with triptych train only" in said
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_images_claims_no_folder(capsys, tmp_path):
    """Else the folder would stand in the way of settings that do."""
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 10)).astype(np.uint8)
    np.savez(tmp_path / "rect.npz", train_images=images, test_images=images[:20])
    words = ["train", "ddpm", "--dataset", "rect", "--data", ".", "--epochs", "1"]
    assert "12x10 images cannot be halved 2 times" in refused(capsys, *words)
    assert not list(tmp_path.rglob("config.json"))
    main([*words, "--set", "widths=[16]"])


def test_the_folder_of_all_runs_of_a_model_is_none_of_them(capsys, tmp_path):
    (tmp_path / "runs").mkdir()
    assert "the folder of a run, STUDY/MODEL/seed-0" in refused(capsys, "evaluate", "runs")
    assert "the folder of a study" in refused(capsys, "report", "runs")


def test_a_data_set_is_one_of_ours_or_a_file_of_ones_own(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (("train", "vae"), ("study", "priors"), ("data", "verify")):
        option = () if words[0] == "data" else ("--dataset",)
        said = refused(capsys, *words, *option, "mnits", "--data", ".")
        assert "choose one of digits, mnist, fashion, kmnist, or put images of your own" in said
        assert "mnits.npz" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_offers_nothing_that_is_none(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "None" not in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["vae-flow", "vae-gaussian"])
def test_a_recipe_named_by_its_prior_has_no_other(recipe, capsys, tmp_path):
    said = refused(capsys, "train", recipe, "--prior", "vamp", "--out", "r")
    assert f"prior = 'vamp' is not that of {recipe}" in said
    assert not (tmp_path / "r").exists()


def test_a_run_is_never_overwritten_and_goes_on_only_when_asked(capsys, tmp_path):
    words = ["train", "vae", *TINY, "--out", "r"]
    main(words)
    before = (tmp_path / "r/vae-gaussian/seed-0/metrics.jsonl").read_text()
    assert "--resume" in refused(capsys, *words)
    assert "0.5 is asked for" in refused(capsys, *words, "--lr", "0.5", "--resume")
    main([*words, "--resume"])
    assert (tmp_path / "r/vae-gaussian/seed-0/metrics.jsonl").read_text() == before
    main([*words, "--seed", "1"])
    assert (tmp_path / "r/vae-gaussian/seed-1/checkpoint").is_dir()


def test_a_studys_run_is_judged_as_the_study_asks(capsys, tmp_path):
    """Else its table would hold two protocols, or one that it does not name."""
    main(["train", "vae", *TINY, "--out", "r"])
    run = tmp_path / "r/vae-gaussian/seed-0"
    how = Evaluation(importance_samples=5, images=40, steps=7)  # of which a VAE has none
    (tmp_path / "r/study.json").write_text(json.dumps({"evaluation": asdict(how)}))
    words = ["evaluate", str(run), "--images", "40", "--importance-samples"]
    said = refused(capsys, *words, "6")
    assert "judges it with importance_samples = 5, as its study.json says; copy" in said
    assert not (run / "scores.json").exists()
    main([*words, "5"])
    assert (run / "scores.json").exists()


def test_a_studys_run_is_judged_on_the_features_of_the_study(capsys, tmp_path):
    main(["train", "pixelflow-mlp", *TINY, "--out", "r"])
    run, how = tmp_path / "r/pixelflow-mlp/seed-0", Evaluation(images=40)
    (tmp_path / "r/study.json").write_text(json.dumps({"evaluation": asdict(how)}))
    words = ["evaluate", str(run), "--images", "40"]
    main(words)
    before = (run / "scores.json").read_bytes()
    main(["train-features", "digits", "--out", "other.safetensors"])
    said = refused(capsys, *words, "--features", "other.safetensors")
    assert "which judges it on the features 'triptych-digits'; copy" in said
    assert (run / "scores.json").read_bytes() == before


def test_samples_of_a_run_that_is_not_at_its_end_say_so(capsys, tmp_path):
    main(["train", "vae", *TINY, "--out", "r"])
    run = tmp_path / "r/vae-gaussian/seed-0"
    main(["sample", str(run), "-n", "2"])
    assert "drawn by" not in capsys.readouterr().out
    saved = checkpoint.load(run)
    saved.loop["steps"] = 900
    checkpoint.save(run, saved)
    main(["sample", str(run), "-n", "2"])
    assert f"weights of step {saved.loop['step']} of 900" in capsys.readouterr().out


def test_samples_are_scored_from_the_file_that_they_were_drawn_to(capsys, tmp_path):
    main(["train", "pixelflow", *TINY, "--out", "r"])
    main(["sample", "r/pixelflow/seed-0", "-n", "370", "--out", "drawn.npz"])
    capsys.readouterr()
    main(["score", "drawn.npz", "--out", "scores.json"])
    said = capsys.readouterr().out
    scores = {s["metric"]: s for s in json.loads(Path("scores.json").read_text())["scores"]}
    assert re.search(rf"^fid +{scores['fid']['value']:.4f} ", said)
    assert scores["fid"]["protocol"]["n"] == 360
    assert "scored 360 of 370 images, at random" in said


def test_features_are_trained_to_a_file_and_judged_on(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(classifier.RECIPE, "epochs", 1)
    main(["train-features", "digits", "--out", "f.safetensors"])
    said = capsys.readouterr().out
    reached = features_for(load("digits"), Path("f.safetensors"))
    assert said == f"wrote f.safetensors; accuracy on the test images {reached.accuracy:.4f}\n"
    np.savez("drawn.npz", images=load("digits").test_images.numpy() * 15)
    main(["score", "drawn.npz", "--features", "f.safetensors", "--out", "scores.json"])
    fid = next(
        s for s in json.loads(Path("scores.json").read_text())["scores"] if s["metric"] == "fid"
    )
    assert fid["protocol"]["features"] == "f.safetensors"
    assert fid["protocol"]["feature_hash"] == reached.hash


def test_ctrl_c_saves_and_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    words = ["train", "vae", "--epochs", "2", "--out", "r"]

    def interrupt(title):
        return lambda said: signal.raise_signal(signal.SIGINT) if said.step < 5 else None

    with monkeypatch.context() as patch:
        patch.setattr(display, "bar_for", interrupt)
        with pytest.raises(SystemExit) as left:
            main(words)
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert "everything is saved" in said
    assert "--resume" in said
    assert "Traceback" not in said
    run = tmp_path / "r/vae-gaussian/seed-0"
    stopped_at = checkpoint.load(run).loop["step"]
    main([*words, "--resume"])
    loop = checkpoint.load(run).loop
    assert stopped_at < loop["step"] == loop["steps"]


def test_the_version_is_the_packages(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"triptych {version('triptych')}\n"


def test_windows_is_told_of_wsl(capsys, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert "on Windows install it in WSL" in refused(capsys, "data", "verify", "digits")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["data", "verify", "digits"], ["train", "--help"]])
def test_who_reads_no_further_is_told_nothing(words, unbuffered):
    """As `triptych ... | head` does."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", "from triptych.cli import main; main()", *words],
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(write)
    assert (done.stderr, done.returncode) == (b"", 141)


def test_ctrl_c_reaches_a_real_process(tmp_path):
    words = ["train", "vae", "--epochs", "1000", "--out", str(tmp_path / "r")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from triptych.cli import main; main()", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = tmp_path / "r/vae-gaussian/seed-0/metrics.jsonl"
    for _ in range(2400):
        if log.exists() and log.read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "everything is saved" in said
    assert "Traceback" not in said
    assert 0 < checkpoint.load(log.parent).loop["step"] < 1000


def test_a_run_that_fails_says_what_is_saved_and_exits_with_1(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "pixelflow", "--lr", "10", "--epochs", "8"])
    assert left.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("triptych: ")
    assert "not finite" in said
    assert "--lr" in said


def test_a_study_with_runs_left_to_do_exits_with_1(capsys, monkeypatch):
    def breaks(*_):
        raise RuntimeError("a worker's own fault")

    text = "seeds = 1\n[[recipe]]\nbase = 'vae-gaussian'\nepochs = 0.2\nhidden = [8]\n"
    Path("s.toml").write_text(f"{text}[evaluation]\nimages = 40\nimportance_samples = 5\n")
    with monkeypatch.context() as patch:
        patch.setattr(local, "run_job", breaks)
        with pytest.raises(SystemExit) as left:
            main(["study", "s.toml", "--workers", "1"])
    said = capsys.readouterr()
    assert left.value.code == 1
    assert "failed: vae-gaussian seed 0: RuntimeError: a worker's own fault" in said.out
    assert said.err.splitlines()[-1].startswith("triptych: not finished: 1 of the runs of runs/s;")
    monkeypatch.setattr("triptych.report.write_report", lambda folder: folder / "report.pdf")
    main(["study", "s.toml", "--workers", "1"])
    assert capsys.readouterr().out.endswith("wrote runs/s/report.pdf and report.html\n")


def test_a_study_whose_runs_failed_exits_with_1(capsys):
    text = "seeds = 1\n[[recipe]]\nbase = 'pixelflow'\nepochs = 8\nlr = 10\n"
    Path("s.toml").write_text(text)
    for _ in "ab":
        with pytest.raises(SystemExit) as left:
            main(["study", "s.toml", "--workers", "1"])
        assert left.value.code == 1
        assert "1 of the runs of runs/s failed, as listed above" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--set", "epochs=1", "--set", "hidden=[8]"], ["--track", "wandb", "--track=mlflow"]]
)
def test_an_option_of_several_values_is_given_once(words, capsys):
    assert f"{words[0]} is given twice; give it once" in refused(capsys, "train", "vae", *words)
    assert not Path("runs").exists()


def test_a_setting_is_one_line(capsys):
    assert "write KEY=VALUE" in refused(capsys, "train", "vae", "--set", "epochs=1\nbatch_size=3")


def test_home_is_where_it_is_behind_the_name_of_an_option(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    main(["train", "vae", *TINY, "--out=~/runs"])
    assert (tmp_path / "home/runs/vae-gaussian/seed-0/config.json").exists()


def test_a_machine_without_a_home_folder_is_no_reason_to_stop(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # KeyError, as of a user that has none
    monkeypatch.setattr("os.getuid", lambda: -1)
    assert mended(["train", "vae", "--seed=1", "--out=~/runs"])[-2:] == ["--seed=1", "--out=~/runs"]


def test_help_ends_on_the_narrowest_terminal():
    run = [sys.executable, "-m", "triptych", "train", "--help"]
    done = subprocess.run(
        run, env=os.environ | {"COLUMNS": "1"}, timeout=60, capture_output=True, check=True
    )
    assert b"--latent-dim" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has such a device")
def test_no_room_for_what_is_printed_is_a_sentence():
    with open("/dev/full", "w") as full:
        run = [sys.executable, "-m", "triptych", "--version"]
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "triptych: no space left for the output; make room for it\n"


@pytest.mark.parametrize("words", [["train", "vae"], ["score", "none.npz"]])
def test_files_are_not_passed_over_where_images_need_none(words, capsys):
    assert "has no effect on the digits" in refused(capsys, *words, "--data", "mnist")


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "run", "--out"],
        ["score", "images.npz", "--out"],
        ["train-features", "digits", "--out"],
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(words, capsys, monkeypatch):
    name = {"sample": "x.npz", "score": "x.json", "train-features": "x.safetensors"}[words[0]]
    Path(name).mkdir()
    monkeypatch.setattr("triptych.data.load", lambda *_: pytest.fail("work was begun"))
    assert name in refused(capsys, *words, name)


def test_samples_do_not_take_the_place_of_a_runs_own(capsys, tmp_path):
    main(["train", "vae", *TINY, "--out", "r"])
    run = tmp_path / "r" / "vae-gaussian" / "seed-0"
    said = refused(capsys, "sample", str(run), "-n", "2", "--out", str(run / "samples.npz"))
    assert "is among the files of a run" in said
    assert not (run / "samples.npz").exists()


def test_a_report_says_what_is_gone_and_so_not_in_it(capsys, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "study" / "vae" / "seed-0")
    run.path.mkdir(parents=True)
    run.write_judgement(Judgement([], {"latent": {"a": np.zeros(1)}}), Evaluation())
    monkeypatch.setattr("triptych.report.write_report", lambda folder: folder / "report.pdf")
    recipe = Recipe("vae", "VAE", "A", "vae", "gaussian", "threshold", 2, 1, 1, "")
    score = Summary("vae", "elbo", "nats", -1.0, None, 1, [0], [-1.0])
    scored = Study(Path("study"), "s", "digits", [0], [recipe], [score], [], [])
    monkeypatch.setattr("triptych.report.load.read_study", lambda folder: scored)
    main(["report", "study"])
    assert "latent.npz" not in capsys.readouterr().out
    (run.path / "latent.npz").unlink()
    main(["report", "study"])
    assert "without latent.npz of study/vae/seed-0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "writer"),
    [("report", "write_report"), ("explore", "write_explorer"), ("handin", "handin")],
)
def test_what_is_written_of_a_study_is_written_by_one_at_a_time(
    command, writer, capsys, tmp_path, monkeypatch
):
    """A study at its end, or the same command in another window, would rename the same files."""

    def write(folder):
        with pytest.raises(HeldError), locked(folder):
            pass
        raise UserError("alone")

    (tmp_path / "study").mkdir()
    nothing = Study(Path("study"), "s", "digits", [0], [], [], [], [])
    monkeypatch.setattr("triptych.report.load.read_study", lambda folder: nothing)
    monkeypatch.setattr(f"triptych.report.{writer}", write)
    with pytest.raises(SystemExit):
        main([command, "study"])
    assert capsys.readouterr().err == "triptych: alone\n"


@pytest.mark.parametrize("command", ["report", "explore", "handin"])
def test_no_lock_is_left_in_what_is_no_study(command, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main([command, str(tmp_path)])
    assert "study.json does not exist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "reminded"),
    [
        ([], True),
        (["--features", "mnist_classifier.pth"], False),
        (["--dataset", "fashion"], False),
    ],
)
def test_the_2026_edition_asks_for_the_courses_classifier(more, reminded, tmp_path, capsys):
    nowhere = ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main(["study", "brief-2026", *nowhere, *more])
    assert ("--features mnist_classifier.pth" in capsys.readouterr().out) == reminded


def test_a_study_of_part_a_alone_has_no_use_for_a_classifier(tmp_path, capsys):
    study = tmp_path / "a.toml"
    study.write_text('dataset = "mnist"\nedition = "2026"\n[[recipe]]\nbase = "vae-flow"\n')
    with pytest.raises(SystemExit):
        main(["study", str(study), "--data", str(tmp_path / "nowhere")])
    assert "--features" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("score", "run/config.json"),
        ("score", "run/checkpoint/loop.json"),
        ("score", "study.json"),
        ("train-features", "run/checkpoint/model.safetensors"),
        ("train-features", "run/x.safetensors"),
    ],
)
def test_files_of_runs_and_studies_are_not_written_over(command, place, tmp_path, capsys):
    kept = tmp_path / place
    (tmp_path / "run/checkpoint").mkdir(parents=True)
    for path in (tmp_path / "run/config.json", tmp_path / "study.json", kept):
        path.write_text("mine")
    np.savez(tmp_path / "drawn.npz", images=np.random.rand(4, 8, 8))
    what = {"score": str(tmp_path / "drawn.npz"), "train-features": "digits"}[command]
    said = refused(capsys, command, what, "--out", str(kept))
    assert "one of which it might replace" in said
    assert kept.read_text() == "mine"


def test_settings_beyond_what_toml_can_read_are_told_in_a_sentence(capsys):
    for value in ("[" * 3000, "9" * 5000):
        assert refused(capsys, "train", "vae", *TINY, "--set", f"latent_dim={value}")
