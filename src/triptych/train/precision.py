"""Where numbers are rounded: to bfloat16 in the networks, where the hardware has it, and nowhere
else; not to TF32 where something is measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from triptych.flows.autoregressive import MADE
from triptych.flows.raster import NearNet
from triptych.nets.conv import ConvNet, PatchNet
from triptych.nets.denoiser import Denoiser
from triptych.nets.mlp import MLP, GatedMLP
from triptych.nets.residual import ResidualConvNet, ResidualDecoder, ResidualEncoder
from triptych.nets.unet import UNet

NETWORKS = (
    MLP,
    GatedMLP,
    MADE,
    ConvNet,
    PatchNet,
    NearNet,
    ResidualConvNet,
    ResidualEncoder,
    ResidualDecoder,
    UNet,
    Denoiser,
)


def bf16_helps(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 have hardware behind them on this device; of a CPU, as
    far as its torch can tell."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)  # not in older releases
    return device.type == "cpu" and bool(capabilities().get("avx512_bf16"))


@contextmanager
def networks_in_bf16(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Run the model's networks, and nothing else, under bfloat16 autocast.

    Log densities, log-dets and the flows' own maps stay in full precision: a matrix product
    of a mixture density or a 1x1 convolution must not be rounded to eight bits.
    """
    nets = [m for m in model.modules() if isinstance(m, NETWORKS)] if enabled else []
    for net in nets:
        net.forward = _autocast(net.forward)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for net in nets:
            del net.forward


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions of float32 numbers in float32, which on a GPU torch rounds to TF32's ten bits:
    a flow's inverse, whose networks must answer twice alike, is then hundreds of times less exact.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _autocast(forward: Any) -> Any:
    def run(*given: Any, **named: Any) -> Tensor:
        """The output in the precision of the first input, as its caller expects it."""
        x = next(a for a in (*given, *named.values()) if isinstance(a, Tensor))
        with torch.autocast(x.device.type, torch.bfloat16):
            return forward(*given, **named).to(x.dtype)

    return run
