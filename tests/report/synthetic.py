"""A study folder as a finished study leaves it, with made-up numbers."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RESULTS = Path(__file__).parents[2] / "results"
of_reference = pytest.mark.skipif(not RESULTS.is_dir(), reason="a hand-in has no results of others")
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
ARCHITECTURE = (
    "encoder and decoder are fully connected networks with two hidden layers of 512 SiLU units"
)
PRIORS = {
    "vae-gaussian": ("VAE, Gaussian prior", "gaussian", -80.1),
    "vae-mixture": ("VAE, mixture prior", "mixture", -78.4),
    "vae-flow": ("VAE, flow prior", "flow", -72.9),
}
NINE = PRIORS | {
    "vae-spline": ("Neural spline flow", "spline", -72.8),
    "vae-maf": ("Autoregressive flow", "maf", -73.5),
    "vae-vamp": ("VampPrior", "vamp", -75.0),
    "vae-resampled": ("Resampled", "resampled", -78.0),
    "vae-hierarchical": ("Hierarchical", "hierarchical", -78.5),
    "vae-hierarchical-vamp": ("Hierarchical VampPrior", "hierarchical-vamp", -74.0),
}
PIXEL = {
    "vae-b": ("VAE, dynamic", "vae", None, 61.0),
    "pixelflow": ("Pixel flow", "pixelflow", 1.284, 22.4),
    "ddpm": ("DDPM", "ddpm", 1.012, 4.31),
}
OF_2026 = {
    "ddpm": PIXEL["ddpm"],
    "latent-small": ("Latent, beta = 1e-6", "latent", None, 6.2),
    "latent-one": ("Latent, beta = 1", "latent", None, 9.4),
    "vae-b": PIXEL["vae-b"],
}
SPEEDS = {"ddpm": 12.0, "pixelflow": 300.0, "latent": 900.0, "vae": 24_000.0}


@dataclass
class Synthetic:
    """What to write. `shift` moves one prior's ELBO so that pairs separate or do not."""

    seeds: tuple[int, ...] = (0, 1, 2)
    latent_dim: int = 2
    jitter: float = 0.15
    titles: dict[str, str] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    side: int = 28
    priors: dict[str, tuple[str, str, float]] = field(default_factory=lambda: dict(PRIORS))
    part_b: bool = True
    pixel: dict[str, tuple[str, str, float | None, float]] = field(
        default_factory=lambda: dict(PIXEL)
    )
    edition: str = "2024"


def write_study(folder: Path, ask: Synthetic | None = None) -> Path:
    """Writes the whole folder and returns it."""
    ask = ask or Synthetic()
    folder.mkdir(parents=True, exist_ok=True)
    recipes = _recipes(ask)
    _dump(folder / "study.json", _study(ask, recipes))
    scores = [s for r in recipes for s in _scores(ask, r["name"])]
    results = {"schema": 1, "study": "synthetic", "scores": scores, "failures": ask.failures}
    results["differences"] = differences(scores)
    _dump(folder / "results.json", results)
    for recipe in recipes:
        for seed in ask.seeds:
            write_run(folder / recipe["name"] / f"seed-{seed}", ask, recipe, seed)
    return folder


def summary(model: str, metric: str, values: list[float], protocol: dict[str, Any]) -> dict:
    """One entry of results.json."""
    bare = ("fid", "energy-distance", "classifier-accuracy")
    unit = "bits/dim" if metric == "bpd" else "" if metric.startswith(bare) else "nats"
    return {
        "model": model,
        "metric": metric,
        "unit": unit,
        **statistics(values),
        "seeds": list(range(len(values))),
        "values": values,
        "mc_std": None,
        "protocol": protocol,
    }


def statistics(values: list[float]) -> dict[str, Any]:
    """Mean, std, n and interval as results.json has them."""
    n, mean = len(values), float(np.mean(values))
    std = float(np.std(values, ddof=1)) if n > 1 else None
    half = None if std is None else T95[n] * std / np.sqrt(n)
    interval = None if half is None else [mean - half, mean + half]
    return {"mean": mean, "std": std, "n_seeds": n, "interval95": interval}


def differences(scores: list[dict]) -> list[dict]:
    """All pairs of models with the same metric, paired by seed."""
    found = []
    for i, a in enumerate(scores):
        for b in scores[i + 1 :]:
            if a["metric"] != b["metric"]:
                continue
            shared = [s for s in a["seeds"] if s in b["seeds"]]
            pairs = [(a["values"][s], b["values"][s]) for s in range(len(shared))]
            entry = {"metric": a["metric"], "unit": a["unit"], "a": a["model"], "b": b["model"]}
            entry |= statistics([x - y for x, y in pairs]) | {"seeds": shared}
            found.append(entry | {"protocol": a["protocol"]})
    return found


def edit(path: Path, change) -> None:
    """Reads a JSON file, lets `change` alter it in place, and writes it back."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    _dump(path, content)


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _recipes(ask: Synthetic) -> list[dict]:
    common: dict[str, Any] = {"epochs": 20, "parameters": 1_234_567, "architecture": ARCHITECTURE}
    found: list[dict[str, Any]] = [
        {"name": n, "title": t, "part": "A", "family": "vae", "prior": p, "view": "threshold"}
        | {"latent_dim": ask.latent_dim}
        | common
        for n, (t, p, _) in ask.priors.items()
    ]
    sentences = {
        "vae": ARCHITECTURE + " and see a new Bernoulli draw of every image in each epoch",
        "pixelflow": "two scales of eight affine couplings each, whose networks are three 3x3 "
        "convolutions of 64 channels, on logits of uniformly dequantized pixels",
        "ddpm": "a U-Net behind a pixel-unshuffle door with GroupNorm residual blocks of 64, 128 "
        "and 128 channels and sinusoidal time embedding, cosine schedule of 1000 steps",
        "latent": ARCHITECTURE + "; then a residual MLP of 3 blocks on standardised latents",
    }
    for n, (t, f, _, _) in ask.pixel.items() if ask.part_b else ():
        entry = {"name": n, "title": t, "part": "B", "family": f, "prior": None, "view": "raw"}
        entry |= common | {"latent_dim": 32 if f == "vae" else None}
        found.append(entry | {"architecture": sentences[f], "parameters": 3_141_592})
    return [r | {"title": ask.titles.get(r["name"], r["title"])} for r in found]


def _study(ask: Synthetic, recipes: list[dict]) -> dict:
    return {
        "schema": 1,
        "name": "synthetic",
        "dataset": "mnist",
        "levels": 256,
        "shape": [1, ask.side, ask.side],
        "seeds": list(ask.seeds),
        "edition": ask.edition,
        "recipes": recipes,
    }


def _scores(ask: Synthetic, name: str) -> list[dict]:
    rng = np.random.default_rng(abs(hash_of(name)))

    def runs(mean: float, scale: float) -> list[float]:
        return [mean + scale * float(rng.normal()) for _ in ask.seeds]

    base = {"dataset": "mnist", "split": "test", "n": 10000}
    if name in ask.priors:
        elbo = ask.priors[name][2]
        seen = base | {"view": "threshold"}
        values = runs(elbo, ask.jitter)
        return [
            summary(name, "elbo", values, seen | {"samples": 1}),
            summary(name, "iwae-1000", [v + 4.6 for v in values], seen | {"samples": 1000}),
            summary(name, "kl-aggregate", runs(-elbo / 8 - 8, 0.05), seen),
            summary(name, "mutual-information", runs(8.9, 0.02), seen),
            summary(name, "energy-distance", runs(0.02, 0.002), seen | {"null95": 0.0061}),
            summary(name, "classifier-accuracy", runs(0.6, 0.01), seen | {"null95": 0.512}),
        ]
    _, family, bpd, fid = ask.pixel[name]
    features = {"features": "classifier", "feature_hash": "ab12cd34ef", "floor": 1.08}
    how = {"sampler": "ddim", "steps": 50, "eta": 1.0} if family == "ddpm" else {}
    seen = base | {"view": "raw"}
    found = [summary(name, "fid", runs(fid, 0.2), seen | features | how)]
    if bpd is not None:
        bound = "variational" if family == "ddpm" else "uniform dequantization"
        found.append(summary(name, "bpd", runs(bpd, 0.003), seen | {"bound": bound}))
    if ask.edition == "2026":
        clock = seen | {"device": "cpu", "threads": 1, "n": 64, "split": "samples"} | how
        found.append(summary(name, "samples-per-second", runs(SPEEDS[family], 0.1), clock))
    if family == "latent":
        found.append(summary(name, "fid-prior", runs(10 * fid, 0.2), seen | features))
        found.append(summary(name, "fid-reconstruction", runs(fid / 2, 0.1), seen | features))
    return found


def hash_of(name: str) -> int:
    """A number that is the same in every process."""
    return sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**32


def write_run(folder: Path, ask: Synthetic, recipe: dict, seed: int) -> None:
    """The arrays of one run, whoever scored it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, hash_of(recipe["name"])])
    _dump(folder / "config.json", {"recipe": recipe["name"], "seed": seed})
    grey = np.linspace(0, 255, ask.side).astype(np.uint8)
    images = np.broadcast_to(grey, (8, 1, ask.side, ask.side)).copy()
    images[:, :, ::3] = rng.integers(0, 256, images[:, :, ::3].shape)
    np.savez(folder / "samples.npz", images=images)
    n, fid = np.array([1000, 2000, 5000, 10_000]), 3 + 2000 / np.array([1000, 2000, 5000, 10_000])
    np.savez(folder / "fid-growth.npz", n=n, fid=fid * rng.uniform(1, 9), floor=fid - 2.9)
    shares = rng.dirichlet(np.full(10, 60.0), 3)
    names = ("samples", "train", "test")
    np.savez(folder / "classes.npz", **dict(zip(names, shares, strict=True)))
    np.savez(folder / "nearest.npz", images=images[::-1], distance=np.arange(8.0))
    _write_sampling(folder, recipe["family"], rng)
    if recipe["family"] == "vae":
        k = np.array([1, 2, 5, 10, 20, 50, 100])
        np.savez(folder / "growth.npz", k=k, iwae=-80 + np.log(k) + rng.normal())
        np.savez(folder / "divergence.npz", nats=rng.exponential(size=ask.latent_dim))
        np.savez(folder / "reconstructions.npz", images=images, means=images[:, :, ::-1])
        if ask.latent_dim == 2:
            axis = np.linspace(-2, 2, 5)
            mosaic = rng.integers(0, 256, (5, 5, 1, ask.side, ask.side)).astype(np.uint8)
            np.savez(folder / "manifold.npz", images=mosaic, x=axis, y=axis)
    if recipe["family"] in ("vae", "latent"):
        arrays: dict[str, Any] = _latent(ask, rng)
        drawn = {"chain": arrays["density"], "chain_draws": arrays["prior"]}
        chain = drawn if recipe["family"] == "latent" else {}
        np.savez(folder / "latent.npz", **arrays, **chain)


def _write_sampling(folder: Path, family: str, rng: np.random.Generator) -> None:
    """What is measured of a chain's times, and of its samplers."""
    if family == "ddpm":
        t = np.array([0, 1, 9, 99, 999])
        np.savez(folder / "terms.npz", t=t, bits=1 / (t + 1.0), T=np.array(1000), prior=1e-4)
    calls = {"asked": [40], "dpm-solver++": [5, 10, 20], "dpm-solver++ sde": [10, 20, 40]}
    calls |= {"unipc": [5, 10, 20], "heun": [9, 19], "ddim": [10, 25, 50]}
    rows = [(w, e) for w, es in calls.items() for e in es if family in ("ddpm", "latent")]
    way, evaluations = (np.array(c) for c in zip(*(rows or [("asked", 1)]), strict=True))
    seconds, fid = evaluations * rng.uniform(1e-4, 1e-2), 9 + rng.uniform(5, 50) / evaluations
    known = {"seconds": seconds, "fid": fid, "n": np.array(1000), "floor": np.array(5.0)}
    sde, default = "dpm-solver++ sde", {"eta": 0.0, "noise_below": np.nan, "rho": np.nan}
    noise = {"eta": {sde: 1.0, "unipc": np.nan}, "noise_below": {sde: 3.0}, "rho": {sde: 6.0}}
    for name, values in noise.items():
        known[name] = np.array([values.get(w, default[name]) for w in way])
    np.savez(folder / "tradeoff.npz", sampler=way, evaluations=evaluations, **known)


def _latent(ask: Synthetic, rng: np.random.Generator) -> dict[str, np.ndarray]:
    labels = rng.integers(0, 10, 2000)
    scale = 1.0 if ask.latent_dim == 2 else 0.5
    centres = rng.normal(size=(10, 2)) * scale
    posterior = centres[labels] + 0.25 * rng.normal(size=(2000, 2))
    x, y = np.linspace(-4, 4, 120), np.linspace(-4, 4, 110)
    density = np.exp(-0.5 * (x[None] ** 2 + y[:, None] ** 2)) / (2 * np.pi)
    return {
        "posterior": posterior.astype(np.float32),
        "labels": labels,
        "prior": rng.normal(size=(1000, 2)).astype(np.float32),
        "grid_x": x.astype(np.float32),
        "grid_y": y.astype(np.float32),
        "density": density.astype(np.float32),
        "components": np.array("latent" if ask.latent_dim == 2 else "pca"),
        "explained": np.array([0.213, 0.148], np.float32),
    }
