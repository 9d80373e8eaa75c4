"""U-Nets, pixel flows and samplers beside their peers: the rows about images as they are."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from peers import diffusers_unet, lucidrains_unet, normflows_glow
from race import our_rounds, race
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from where import DEVICE

from triptych.evaluate.drawing import sampler
from triptych.evaluate.evaluation import Evaluation
from triptych.samplers import Autoguidance
from triptych.study.build import build
from triptych.study.recipes import recipes_for
from triptych.train.allocation import keep_freed_memory

SHAPE, LEVELS = (1, 28, 28), 256
BATCH, STEPS = 64, 4  # of a round of training
DRAWN = 64
TARGETS = {"the same U-Net": " (target 1.8)"}


def against_unets(images: Tensor) -> dict[str, Any]:
    """The recipe's U-Net, those of diffusers and of denoising-diffusion-pytorch with about as many
    parameters, and one of the latter with as many operations, in the fp32 loop of public answers;
    and the recipe's as it trains."""
    peers = {
        "U-Net of diffusers": diffusers_unet(),
        "U-Net of denoising-diffusion-pytorch": lucidrains_unet(34),
        "a smaller one, of as many FLOPs": lucidrains_unet(22),
        "the same U-Net": built("ddpm").net,
    }
    rounds, ratios = {}, {}
    for name, net in peers.items():
        model = built("ddpm")
        model.net = net
        row = f"{name}, plain Adam loop in fp32"
        rounds[row] = plain_rounds(denoising(model), model, images)
        ratios[f"ratio to {name}" + TARGETS.get(name, "")] = [row]
    rounds["DDPM as triptych trains it"] = trained(built("ddpm"), "ddpm", images)
    return race(rounds, ratios, STEPS * BATCH)


def against_glow(images: Tensor) -> dict[str, Any]:
    """normflows' Glow of the recipe's scales, steps and width, and the recipe's flow."""
    config = recipes_for("mnist")["pixelflow"].model
    peer = normflows_glow(config.scales, config.steps, config.width)  # pyright: ignore
    theirs = "Glow of normflows, plain Adam loop"

    def loss(k: Tensor) -> Tensor:
        y = (k + torch.rand_like(k)) / LEVELS
        return peer.forward_kld((1e-6 + (1 - 2e-6) * y).logit())

    ours = {"pixel flow as triptych trains it": trained(built("pixelflow"), "pixelflow", images)}
    rounds = {theirs: plain_rounds(loss, peer, images)} | ours
    return race(rounds, {"ratio to normflows (target 3)": [theirs]}, STEPS * BATCH)


def against_ancestral(images: Tensor) -> dict[str, Any]:
    """64 samples by the chain's 1,000 steps, and as the built-in studies draw them."""
    asked = Evaluation(sampler="dpm-solver++", steps=20, eta=1.0, guidance=2.0)
    every = "samples, ancestral, 1,000 steps"
    rounds = {
        every: drawing(Evaluation(sampler="ancestral")),
        "samples, DPM-Solver++, 20 steps, both networks of autoguidance": drawing(asked),
    }
    return race(rounds, {"ratio to ancestral (target 20)": [every]}, DRAWN, rounds=1)


def built(name: str) -> Any:
    """A recipe's model."""
    torch.manual_seed(0)
    return build(recipes_for("mnist")[name].model, SHAPE, LEVELS).to(DEVICE)


def trained(model: nn.Module, name: str, images: Tensor) -> Callable[[], None]:
    """Steps of the real trainer with the recipe's settings, but for the batch size."""
    config = replace(recipes_for("mnist")[name].train, batch_size=BATCH)
    return our_rounds(model, images, config=config, look="raw", steps=STEPS)


def denoising(model: Any) -> Callable[[Tensor], Tensor]:
    """L_simple as public answers write it: uniform t, squared error of eps."""

    def loss(k: Tensor) -> Tensor:
        x_0, t = 2 * k / 255 - 1, torch.randint(0, model.T, (len(k),), device=k.device)
        eps = torch.randn_like(x_0)
        return (model.net(model.diffuse(x_0, t, eps), t) - eps).square().mean()

    return loss


def plain_rounds(
    loss: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor
) -> Callable[[], None]:
    """fp32, default Adam, a DataLoader."""
    loader = DataLoader(TensorDataset(images[: STEPS * BATCH].float()), BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.to(DEVICE).parameters(), lr=1e-3)

    def round_() -> None:
        for (k,) in loader:
            optimizer.zero_grad()
            loss(k.to(DEVICE)).backward()
            optimizer.step()

    return round_


def drawing(how: Evaluation) -> Callable[[], None]:
    """64 samples as `evaluate` draws them, with the weights of the start."""
    model = built("ddpm")
    if how.guidance != 1:
        model.net = Autoguidance(model.net, built("ddpm").net, how.guidance)
    draw = sampler(model, how, torch.Generator(DEVICE).manual_seed(0))

    def round_() -> None:
        keep_freed_memory()  # as triptych's commands do
        draw(DRAWN)

    return round_
