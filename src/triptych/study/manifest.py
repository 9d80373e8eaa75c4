"""What made a run's scores: versions, hardware, the commit of the code, and what it cost."""

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from triptych.study.store import SCHEMA


def manifest(data_sha256: str, device: torch.device, seconds: dict[str, float]) -> dict[str, Any]:
    """Versions, hardware, commit, data and cost of a run."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes there, kibibytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.machine()
    return {
        "schema": SCHEMA,
        "triptych": version("triptych"),
        "python": platform.python_version(),
        "libraries": libraries(),
        "system": platform.system(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "git_commit": git_commit(),
        "data_sha256": data_sha256,
        "seconds": {k: round(v, 1) for k, v in seconds.items()},
        "peak_memory_bytes": peak,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def libraries() -> dict[str, str]:
    """The versions of what computes; torch itself says for which device it is built."""
    others = ("numpy", "scipy", "scikit-learn", "safetensors")
    return {"torch": str(torch.__version__)} | {name: version(name) for name in others}


def git_commit() -> str | None:
    """The commit of the source tree, with "+" when it has changes; None outside a checkout of ours,
    as where a copy is installed in the folders of another project."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("ls-files", __file__) and git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if git("status", "--porcelain") else "") if commit else None
    except (OSError, subprocess.TimeoutExpired):
        return None
