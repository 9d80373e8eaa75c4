"""Commands that make something: a trained run, images drawn from it."""

import os
import shlex
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from triptych.cli.options import (
    IMAGES,
    Computing,
    NetworkName,
    ObjectiveName,
    PosteriorName,
    PriorName,
    Sampling,
    Settings,
    Trackers,
    Where,
    check_data,
    check_out,
    choice,
    merged,
    one_of,
    parsed,
    usually,
)
from triptych.errors import RunFailed, UserError

RECIPES_OWN = "the recipe's"
MOST_DRAWN = 1_000_000


@dataclass(frozen=True)
class Train:
    """Train one recipe with one seed: vae, vae-grey, pixelflow, ddpm, vdm, latent-ddpm, ..."""

    recipe: Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]]
    """vae, pixelflow, ddpm, vdm, latent-ddpm, ...; a wrong name lists all"""
    where: Computing = field(default_factory=Where)
    dataset: Annotated[str, tyro.conf.arg(metavar=IMAGES)] = "digits"
    """data set; or OWN: the file OWN.npz in --data"""
    out: Path = Path("runs/train")
    """folder; the run is OUT/RECIPE/seed-SEED"""
    seed: int = 0
    """seed of weights, image order and noise"""
    prior: Annotated[
        PriorName | None, choice(PriorName), usually(one_of(PriorName), RECIPES_OWN)
    ] = None
    """prior of a VAE"""
    posterior: Annotated[
        PosteriorName | None, choice(PosteriorName), usually(one_of(PosteriorName), RECIPES_OWN)
    ] = None
    """posterior of a VAE"""
    objective: Annotated[
        ObjectiveName | None, choice(ObjectiveName), usually(one_of(ObjectiveName), RECIPES_OWN)
    ] = None
    """training objective of a VAE"""
    beta: Annotated[float | None, usually("FLOAT", RECIPES_OWN)] = None
    """weight of the KL term in a VAE's ELBO"""
    network: Annotated[
        NetworkName | None, choice(NetworkName), usually(one_of(NetworkName), RECIPES_OWN)
    ] = None
    """encoder and decoder of a VAE"""
    latent_dim: Annotated[int | None, usually("INT", RECIPES_OWN)] = None
    """dimensions of a VAE's latent space"""
    epochs: Annotated[float | None, usually("FLOAT", RECIPES_OWN)] = None
    """passes over the training images; a latent DDPM's VAE has its own, vae_train"""
    batch_size: Annotated[int | None, usually("INT", RECIPES_OWN)] = None
    """images per step"""
    lr: Annotated[float | None, usually("FLOAT", RECIPES_OWN)] = None
    """peak learning rate"""
    settings: Settings = ()
    """other settings that a recipe may have (docs/studies.md)"""
    resume: bool = False
    """go on from the run's checkpoint"""
    track: Trackers = ()
    """also log to tensorboard, wandb or mlflow"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.study.display import bar_for
        from triptych.study.lock import locked
        from triptych.study.run import ITS_VAE, Job, train
        from triptych.study.trackers import Track, check_trackers
        from triptych.train.distributed import check_batch, joined, leads

        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed {self.seed} cannot be used; choose one of 0 to {2**31 - 1}")
        check_trackers(self.track)
        check_data(self.dataset, self.where.data)
        recipe = self.asked()
        with joined(self.where.device):
            check_batch(recipe.train.batch_size)
            data = load(self.dataset, self.where.data).to(self.where.ready())
            job = Job(recipe, (self.seed,), self.out)
            folder = job.folder(self.seed)
            if self.resume:
                folder.check_resume(resume=True)  # before the folder is made
            with locked(folder.path) if leads() else nullcontext():
                if leads():
                    folder.check_resume(self.resume)
                told = bar_for(recipe.name) if leads() else lambda p: None
                train(job, data, progress=told, track=Track(self.track, self.out))
            failed, first = folder.failure(), leads()
        if failed is not None:
            before = "checkpoint/ holds the weights before that step"
            again = f"{before}; train again with a lower --lr"
            if failed.startswith(ITS_VAE):
                again = "train again with a lower lr of its VAE (--set vae_train={lr=...})"
            raise RunFailed(f"{folder.path}: {failed}; {again} and another --out")
        if first:
            there = ["--data", str(self.where.data)] if self.where.data else []
            next_one = shlex.join(["triptych", "evaluate", str(folder.path), *there])
            print(f"wrote {folder.path}; judge it with: {next_one}")

    def asked(self) -> Any:
        """The recipe with the settings that are asked for."""
        from triptych.study.recipes import asked_recipe

        model = ("prior", "posterior", "objective", "beta", "network", "latent_dim")
        names = (*model, "epochs", "batch_size", "lr")
        ours = {n: v for n in names if (v := getattr(self, n)) is not None}
        return asked_recipe(self.recipe, self.dataset, merged(ours, parsed(self.settings)))

    def begun(self) -> bool:
        """Whether there is a run that --resume goes on with."""
        from triptych.study.store import RunFolder

        try:
            run = RunFolder.of(self.out, self.asked().name, self.seed)
        except UserError:
            return False
        return os.path.exists(run.path / "config.json")  # a name too long is none


@dataclass(frozen=True)
class Sample:
    """Draw images from a trained run, to a picture (.png) or to an array (.npz)."""

    path: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of a run, STUDY/MODEL/seed-S"""
    where: Computing = field(default_factory=Where)
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """how many"""
    out: Path = Path("samples.png")
    """.png: a grid; .npz: images, uint8 [n, 1, H, W]"""
    seed: int = 0
    """seed of the draw"""
    sampling: OmitArgPrefixes[Sampling] = field(default_factory=Sampling)

    def run(self) -> None:
        from triptych.data import load
        from triptych.evaluate.drawing import TOGETHER, enough, sampler
        from triptych.evaluate.evaluation import Evaluation
        from triptych.report.grid import write_images
        from triptych.study.display import line_for
        from triptych.study.run import sampling_model
        from triptych.study.store import RunFolder
        from triptych.study.uses import check_use
        from triptych.train.order import Stream, generator_for
        from triptych.validation import validated

        if self.seed < 0:
            raise UserError(f"--seed {self.seed} cannot be used; choose 0 or more")
        if not 1 <= self.n <= MOST_DRAWN or self.out.suffix not in (".png", ".npz"):
            raise UserError(
                f"-n {self.n} --out {self.out} cannot be done; ask for 1 to {MOST_DRAWN:,} images "
                f"and for a file that ends in .png or .npz"
            )
        check_out(self.out)
        asked, folder = self.sampling.asked(), RunFolder(self.path)
        recipe, dataset, _ = folder.config()
        check_use(recipe.model, asked, asked.get("sampler", "ancestral"))
        how = validated(Evaluation, {"sampler": "ancestral"} | asked, "sample")
        device = self.where.ready()
        data = load(dataset, self.where.data).to(device)
        model = sampling_model(folder, data, how.guidance)
        draw = sampler(model, how, generator_for(self.seed, 0, device, stream=Stream.SAMPLES))
        with line_for(f"drawing from {recipe.name}") as say:
            images = enough(draw(min(self.n, TOGETHER)), draw, self.n, say)
        write_images(self.out, (255 * images).round().byte().cpu().numpy())
        at = folder.unfinished_at()
        print(f"wrote {self.out}" + (f", drawn by the weights of {at}" if at else ""))
