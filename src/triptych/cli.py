"""The command line. Exit codes: 0 done; 2 the request is wrong; 1 it failed or was stopped."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from triptych.protocols import RunFailed, UserError

Device = Literal["cpu", "cuda", "mps"]
Preset = Literal["cpu", "gpu"]
DataName = Literal["digits", "mnist", "fashion", "kmnist"]


@dataclass(frozen=True)
class Where:
    """Options of every command that computes."""

    data: Path | None = None
    """folder of the data files; else TRIPTYCH_DATA, else they are fetched"""
    device: Device = "cpu"
    """where to compute"""
    features: Path | None = None
    """the course's mnist_classifier.pth, to have FID on its features"""


@dataclass(frozen=True)
class Demo:
    """Train, judge and report everything on the embedded digits, in minutes."""

    where: OmitArgPrefixes[Where] = field(default_factory=Where)
    out: Path = Path("runs/demo")
    """folder to write"""
    workers: int = 0
    """processes; 0: one for each core"""

    def run(self) -> None:
        Study("demo", self.where, self.out, workers=self.workers).run()


@dataclass(frozen=True)
class Study:
    """Run a study (demo, brief-2024 or a .toml file): train, judge, report. Resumes by itself."""

    name: Positional[str]
    """demo, brief-2024, or the path of a .toml file"""
    where: OmitArgPrefixes[Where] = field(default_factory=Where)
    out: Path | None = None
    """folder to write; runs/NAME if not given"""
    dataset: DataName | None = None
    """data set, if not the study's own"""
    preset: Preset = "cpu"
    """size of a built-in study"""
    workers: int = 0
    """processes on a CPU; 0: one for each core"""

    def run(self) -> None:
        from triptych.report import write_report
        from triptych.study.display import Bars
        from triptych.study.execute import device_named, execute
        from triptych.study.grid import named_study
        from triptych.study.local import Place

        study = named_study(self.name, self.preset, self.dataset)
        folder = self.out or Path("runs") / study.name
        where = self.where
        place = Place(study.dataset, where.data, where.features, device_named(where.device))
        outcome = execute(study, folder, place, Bars(), self.workers)
        print(f"wrote {folder / 'results.json'}")
        for failure in outcome.results["failures"]:
            print(f"failed: {failure['model']} seed {failure['seed']}: {failure['reason']}")
        print(f"wrote {write_report(folder)}")


@dataclass(frozen=True)
class Train:
    """Train one recipe with one seed: vae, vae-grey, pixelflow, ddpm."""

    recipe: Positional[str]
    """name of a recipe"""
    where: OmitArgPrefixes[Where] = field(default_factory=Where)
    dataset: DataName = "digits"
    """images to train on"""
    out: Path = Path("runs/train")
    """folder; the run is written to OUT/RECIPE/seed-SEED"""
    seed: int = 0
    """seed of weights, image order and noise"""
    prior: Literal["gaussian", "mixture", "flow"] | None = None
    """prior of a VAE"""
    latent_dim: int | None = None
    """dimensions of a VAE's latent space"""
    epochs: float | None = None
    """passes over the training images"""
    batch_size: int | None = None
    """images a step"""
    lr: float | None = None
    """highest learning rate"""
    resume: bool = False
    """go on from the run's checkpoint"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.study.display import bar_for
        from triptych.study.execute import device_named
        from triptych.study.recipes import asked_recipe
        from triptych.study.run import Job, train

        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed {self.seed} cannot be used; choose one of 0 to {2**31 - 1}")
        names = ("prior", "latent_dim", "epochs", "batch_size", "lr")
        asked = {n: v for n in names if (v := getattr(self, n)) is not None}
        recipe = asked_recipe(self.recipe, self.dataset, asked)
        data = load(self.dataset, self.where.data).to(device_named(self.where.device))
        job = Job(recipe, (self.seed,), self.out)
        folder = job.folder(self.seed)
        folder.ready(self.resume)
        train(job, data, progress=bar_for(recipe.name))
        if (reason := folder.failure()) is not None:
            raise RunFailed(
                f"{folder.path}: {reason}; checkpoint/ holds the weights before that step; train "
                f"again with a lower --lr and another --out"
            )
        print(f"wrote {folder.path}; judge it with: triptych evaluate {folder.path}")


@dataclass(frozen=True)
class Evaluate:
    """Judge a trained run on the test set and write its scores.json."""

    path: Positional[Path]
    """folder of a run, STUDY/MODEL/seed-S"""
    where: OmitArgPrefixes[Where] = field(default_factory=Where)
    importance_samples: int = 1000
    """K of the importance-weighted bound"""
    images: int = 10_000
    """use the first so many test images"""
    sampler: Literal["ancestral", "ddim"] = "ddim"
    """how a DDPM samples"""
    steps: int = 50
    """network evaluations of DDIM"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.evaluate.judge import Evaluation
        from triptych.study.execute import device_named
        from triptych.study.recipes import validated
        from triptych.study.run import evaluate
        from triptych.study.store import RunFolder

        asked = {n: getattr(self, n) for n in ("importance_samples", "images", "sampler", "steps")}
        folder, how = RunFolder(self.path), validated(Evaluation, asked, "evaluate")
        _, dataset, _ = folder.config()
        data = load(dataset, self.where.data).to(device_named(self.where.device))
        evaluate(folder, data, how, self.where.features)
        for score in folder.scores():
            error = f" +- {score.mc_std:.2g} (Monte Carlo)" if score.mc_std else ""
            print(f"{score.metric:20s} {score.value:12.4f} {score.unit}{error}")
        print(f"wrote {self.path / 'scores.json'}")


@dataclass(frozen=True)
class Sample:
    """Draw images from a trained run, to a picture (.png) or to an array (.npz)."""

    path: Positional[Path]
    """folder of a run, STUDY/MODEL/seed-S"""
    where: OmitArgPrefixes[Where] = field(default_factory=Where)
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """how many"""
    out: Path = Path("samples.png")
    """.png: a grid; .npz: images, uint8 [n, 1, H, W]"""
    seed: int = 0
    """seed of the draw"""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """how a DDPM samples"""
    steps: int = 50
    """network evaluations of DDIM"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.evaluate.judge import Evaluation, sampler
        from triptych.report.grid import write_images
        from triptych.study.execute import device_named
        from triptych.study.recipes import validated
        from triptych.study.run import trained_model
        from triptych.study.store import RunFolder
        from triptych.train.order import generator_for

        if self.seed < 0:
            raise UserError(f"--seed {self.seed} cannot be used; choose 0 or more")
        if self.n < 1 or self.out.suffix not in (".png", ".npz"):
            raise UserError(
                f"-n {self.n} --out {self.out} cannot be done; ask for at least 1 image and for a "
                f"file that ends in .png or .npz"
            )
        asked = {"sampler": self.sampler, "steps": self.steps}
        how, folder = validated(Evaluation, asked, "sample"), RunFolder(self.path)
        device = device_named(self.where.device)
        model = trained_model(folder, load(folder.config()[1], self.where.data).to(device))
        images = sampler(model, how, generator_for(self.seed, 0, device, stream=5))(self.n)
        write_images(self.out, (255 * images).round().byte().cpu().numpy())
        print(f"wrote {self.out}")


@dataclass(frozen=True)
class Report:
    """Write report.pdf and the figures of a study that has results."""

    study: Positional[Path]
    """folder of a study"""

    def run(self) -> None:
        from triptych.report import write_report

        print(f"wrote {write_report(self.study)}")


@dataclass(frozen=True)
class Handin:
    """Pack the code and the configuration of a study with its report into handin.zip."""

    study: Positional[Path]
    """folder of a study"""

    def run(self) -> None:
        from triptych.report import handin

        print(f"wrote {handin(self.study)}")


@dataclass(frozen=True)
class Data:
    """Fetch a data set, or verify the files that are there."""

    action: Positional[Literal["fetch", "verify"]]
    """what to do"""
    name: Positional[DataName]
    """data set"""
    data: Path | None = None
    """folder to verify; else TRIPTYCH_DATA, else the cache"""

    def run(self) -> None:
        from triptych.data import fetch, verify

        if self.action == "fetch":
            print(f"wrote {fetch(self.name)}")
        else:
            print("\n".join(verify(self.name, self.data)))


@dataclass(frozen=True)
class TrainFeatures:
    """Train a data set's feature network by its fixed recipe and write its weights."""

    dataset: Positional[DataName]
    """data set whose labels to learn"""
    out: Path
    """.safetensors file to write, in half precision"""
    data: Path | None = None
    """folder of the data files"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.evaluate.classifier import train_classifier, write_features

        net, accuracy = train_classifier(load(self.dataset, self.data))
        write_features(self.out, net, accuracy)
        print(f"wrote {self.out}; accuracy on the test images {accuracy:.4f}")


COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "study": Study,
    "train": Train,
    "evaluate": Evaluate,
    "sample": Sample,
    "report": Report,
    "handin": Handin,
    "data": Data,
    "train-features": TrainFeatures,
}


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `triptych`."""
    command: Any = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="triptych",
        description="VAEs with swappable priors, flows and diffusion models: train, judge, report.",
        args=words,
    )
    try:
        command.run()
    except UserError as error:
        sys.exit(_say(2, f"triptych: {error}"))
    except RunFailed as error:
        sys.exit(_say(1, f"triptych: {error}"))
    except KeyboardInterrupt:
        sys.exit(_say(1, "triptych: stopped; the same command goes on from the last checkpoint"))
    except Exception as error:
        from triptych.train.signals import StopRequested

        if isinstance(error, StopRequested):
            sys.exit(_say(1, f"triptych: {error}; go on with the same command and --resume"))
        raise


def _say(code: int, words: str) -> int:
    print(words, file=sys.stderr)
    return code
