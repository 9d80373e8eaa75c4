"""The scores of a pixel flow, but for what its samples are like: bounds, how exactly it inverts
itself, how much of what it draws is no grey level."""

from typing import Any

import torch
from torch import Generator, Tensor

from triptych.evaluate.drawing import sampling_protocol
from triptych.evaluate.evaluation import DRAWN, Evaluation, of_first
from triptych.evaluate.likelihood import flow_bounds, in_bits, in_nats
from triptych.evaluate.memory import drawn_in_halves, in_halves
from triptych.flows.dequantization import UniformDequantization
from triptych.pixelflow import PixelFlow
from triptych.protocols import Score

INVERTED = 1000  # images that go through the flow and back


def judge_flow(
    model: PixelFlow, x: Tensor, how: Evaluation, protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """Bits per dimension from the mean of K draws' log weights and from the log of their mean;
    and the inverse's error in grey levels, the largest of all pixels."""
    K, uniform = how.bound_draws, isinstance(model.dequantizer, UniformDequantization)
    bound, iwae = flow_bounds(model, x, K, g)
    kind = f"{'uniform' if uniform else 'variational'} dequantization"
    protocol_of_bounds = protocol | {"samples": K, "bound": kind}
    found = {"bpd": bound} | ({f"bpd-iwae-{K}": iwae} if K > 1 else {})
    scores = [in_bits(in_nats(n, e, protocol_of_bounds), model.dims) for n, e in found.items()]
    some = x[:INVERTED]
    parts = [
        in_halves(model.inverse_error, part, model.noise(len(part), g)) for part in some.split(250)
    ]
    error = torch.cat(parts).max().item()
    return [*scores, Score("inverse-error", error, "levels", None, of_first(protocol, len(some)))]


def outside_score(
    model: PixelFlow, n: int, how: Evaluation, protocol: dict[str, Any], g: Generator
) -> Score:
    """Share of the pixels of n samples that had to be moved into range."""
    shares = drawn_in_halves(lambda m: model.share_outside(m, g, how.temperature), n)
    drawn = DRAWN | {"n": n} | sampling_protocol(model, how)
    return Score("share-outside", shares.mean().item(), "", None, protocol | drawn)
