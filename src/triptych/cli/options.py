"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Device = Literal["cpu", "cuda", "mps"]
Preset = Literal["cpu", "gpu"]
PriorName = Literal[
    "gaussian",
    "mixture",
    "flow",
    "spline",
    "maf",
    "vamp",
    "resampled",
    "hierarchical",
    "hierarchical-vamp",
]
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
class Sampling:
    """How a DDPM or a pixel flow samples, where a command draws from it."""

    sampler: Literal["ancestral", "ddim", "dpm-solver++", "heun"] = "ddim"
    """how a DDPM samples"""
    steps: int = 50
    """steps, unless ancestral"""
    eta: float = 0.0
    """noise of ddim and dpm-solver++: 0 none, 1 as much as the chain's"""
    guidance: float = 1.0
    """weight of the prediction over that of early weights, if those were kept; 1: none"""
    temperature: float = 1.0
    """scale of a pixel flow's base noise"""
