"""One job of a study: train the seeds of a recipe that are not trained, judge those not judged."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from triptych.data import Dataset, view
from triptych.errors import UserError
from triptych.evaluate.classifier import features_for
from triptych.evaluate.drawing import chain_of
from triptych.evaluate.evaluation import Evaluation, Say, quiet
from triptych.evaluate.judge import judge
from triptych.latent import LatentDDPM
from triptych.samplers import Autoguidance
from triptych.study.build import build, check_images
from triptych.study.configs import LatentDDPMConfig
from triptych.study.manifest import manifest
from triptych.study.recipes import Recipe
from triptych.study.store import RunFolder, pretty
from triptych.study.trackers import UNTRACKED, Track, tracking
from triptych.train import checkpoint
from triptych.train.batches import TrainingData
from triptych.train.distributed import leads, wait
from triptych.train.files import write_text
from triptych.train.fit import Progress, fit
from triptych.train.order import total_steps
from triptych.train.resume import common_step
from triptych.vdm import VDM

OnProgress = Callable[[Progress], None]
ITS_VAE = "its VAE: "  # failed, before a latent DDPM was trained


@dataclass(frozen=True)
class Job:
    """Some seeds of one recipe, to be run by one process (side by side if there are several)."""

    recipe: Recipe
    seeds: tuple[int, ...]
    study: Path

    def folder(self, seed: int) -> RunFolder:
        return RunFolder.of(self.study, self.recipe.name, seed)


def train(
    job: Job,
    data: Dataset,
    progress: OnProgress = lambda p: None,
    track: Track = UNTRACKED,
) -> None:
    """Train the job's seeds on the device that holds the data. Finished training is left alone.

    Of a latent DDPM, the VAE first.
    """
    check_images(job.recipe.model, len(data.train_images))
    new_model(job.recipe, job.seeds[0], data)  # what does not fit the images claims no folder
    if leads():
        for seed in job.seeds:
            job.folder(seed).claim(job.recipe, data, seed)
            job.folder(seed).forget_failure()
    wait()
    stacks = stacks_of(job)
    fresh = [s for s in job.seeds if not any(s in stack for stack in stacks)]
    if isinstance(job.recipe.model, LatentDDPMConfig):
        fresh, progress = _with_autoencoders(job, fresh, data, progress, track)
    for stack in stacks:
        _fit(job, stack, data, True, progress, track)
    if fresh:
        _fit(job, fresh, data, False, progress, track)


def stacks_of(job: Job) -> list[tuple[int, ...]]:
    """The seeds that have a checkpoint, those together that were trained side by side.

    They must go on so to the last bit: a stack rounds differently from its seeds alone. Where
    members are missing, have another checkpoint or were started anew, each goes on alone; where
    they have no step behind them, they are begun anew.
    """
    begun = [s for s in job.seeds if checkpoint.exists(job.folder(s).path)]
    saved = {s: checkpoint.loops(job.folder(s).path) for s in begun}
    stack_of = {}
    for s, loops in saved.items():
        stack_of[s] = tuple(loops[0].get("stack", (s,))) if loops else (s,)
    stacks, alone = [], []
    for stack in sorted(set(stack_of.values())):
        members = [s for s in begun if stack_of[s] == stack]
        folders = [job.folder(s).path for s in members]
        steps = [loop["step"] for s in members for loop in saved[s]]
        if members == list(stack) and common_step(folders) is not None:
            stacks.append(stack)
        # Where no checkpoint can be read, whoever goes on with it says which file is damaged.
        elif not steps or max(steps) > 0:
            alone += [(s,) for s in members]
    return stacks + alone


def autoencoder_job(job: Job) -> Job:
    """The VAE of a latent DDPM is a run of its own, LATENT/autoencoder/seed-S."""
    config = job.recipe.model
    assert isinstance(config, LatentDDPMConfig)
    title = f"VAE of {job.recipe.title}"[:60]
    recipe = Recipe("autoencoder", title, "B", job.recipe.view, config.vae, config.vae_train)
    return Job(recipe, job.seeds, job.study / job.recipe.name)


def _with_autoencoders(
    job: Job, seeds: Sequence[int], data: Dataset, progress: OnProgress, track: Track
) -> tuple[list[int], OnProgress]:
    """Train the VAEs of these seeds. Returns the seeds whose VAE did not fail, and a progress that
    counts the steps of both trainings."""
    vaes = replace(autoencoder_job(job), seeds=tuple(seeds))
    n = len(data.train_images)
    its_steps, own_steps = total_steps(vaes.recipe.train, n), total_steps(job.recipe.train, n)

    def counted_from(before: int) -> OnProgress:
        return lambda p: progress(Progress(before + p.step, its_steps + own_steps, p.loss))

    if seeds:
        train(vaes, data, counted_from(0), track)
    for seed in seeds:
        reason = vaes.folder(seed).failure()
        if reason and leads():
            job.folder(seed).write_failure(f"{ITS_VAE}{reason}")
    whole = [s for s in seeds if vaes.folder(s).failure() is None]
    return whole, counted_from(its_steps)


def _fit(
    job: Job,
    seeds: Sequence[int],
    data: Dataset,
    resume: bool,
    progress: OnProgress,
    track: Track,
) -> None:
    device = data.train_images.device
    models = [new_model(job.recipe, s, data).to(device) for s in seeds]
    for model, seed in zip(models, seeds, strict=True):
        if isinstance(model, LatentDDPM) and not resume:
            trained = checkpoint.load(autoencoder_job(job).folder(seed).path)
            checkpoint.load_into(model.autoencoder, trained.best, job.folder(seed).path)
    training = TrainingData(
        data.train_images, data.validation_images, view(job.recipe.view), data.levels
    )
    folders = [job.folder(s).path for s in seeds]
    with ExitStack() as stack:
        heard = [stack.enter_context(tracking(f, track if leads() else UNTRACKED)) for f in folders]
        failures = fit(
            models, seeds, folders, training, job.recipe.train, resume, progress, listeners=heard
        )
        if leads():
            for failure in failures:
                job.folder(failure.seed).write_failure(str(failure))
    wait()


def new_model(recipe: Recipe, seed: int, data: Dataset) -> nn.Module:
    """The recipe's model with the initial weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(recipe.model, data.shape, data.levels)


def trained_model(folder: RunFolder, data: Dataset) -> nn.Module:
    """The model of a run with the averaged weights that were best on validation."""
    recipe, _, seed = folder.config()
    folder.check_data(data)
    model = new_model(recipe, seed, data)
    checkpoint.load_into(model, checkpoint.load(folder.path).best, folder.path)
    return model.to(data.test_images.device).eval()


def sampling_model(folder: RunFolder, data: Dataset, guidance: float) -> nn.Module:
    """The model to draw from: the trained one, of a VDM its chain in discrete time. With guidance
    other than 1, a chain's network is guided by its early self (`samplers.Autoguidance`)."""
    trained = trained_model(folder, data)
    model = trained.chain() if isinstance(trained, VDM) else trained
    chain = chain_of(model)
    if guidance == 1 or chain is None:
        return model
    early = checkpoint.load(folder.path).early
    if not early:
        raise UserError(
            f"{folder.path} kept no early weights to guide it with guidance = {guidance:g}; choose "
            f"1, or train it again with early = 0.25"
        )
    guide = trained_model(folder, data)
    checkpoint.load_into(guide, early, folder.path)
    if isinstance(guide, VDM) and isinstance(trained, VDM):
        guide.take_schedule(trained)  # both are to be asked at the noise that the chain has
    chain.net = Autoguidance(chain.net, chain_of(guide).net, guidance)  # pyright: ignore
    return model


def evaluate(
    folder: RunFolder,
    data: Dataset,
    how: Evaluation,
    feature_file: Path | None = None,
    track: Track = UNTRACKED,
    say: Say = quiet,
) -> None:
    """Judge a trained run and write its scores, its arrays and its manifest.

    Samples are judged where the assignment asks for it, in part B.
    """
    device = judging_device(data.test_images.device)
    data = data.to(device)
    recipe, _, seed = folder.config()
    how = how.of_latents(recipe.model.kind == "latent")
    began, loop = time.monotonic(), checkpoint.load(folder.path).loop
    folder.check_trained()
    features = features_for(data, feature_file).to(device) if recipe.part == "B" else None
    model = trained_model(folder, data)
    drawn_by = None if how.guidance == 1 else sampling_model(folder, data, how.guidance)
    judgement = judge(model, data, recipe.view, how, seed, features, drawn_by, say)
    cost = {"train": loop["seconds"], "evaluate": time.monotonic() - began}
    found = manifest(data.sha256, device, cost)
    write_text(folder.path / "manifest.json", pretty(found))
    folder.write_judgement(judgement, how)
    with tracking(folder.path, track) as tell:
        tell(loop["step"], {f"test {s.metric}": s.value for s in judgement.scores})


def judging_device(device: torch.device) -> torch.device:
    """The device, or the CPU in place of mps: numbers that are reported need float64, which that
    lacks."""
    return torch.device("cpu") if device.type == "mps" else device
