"""Kill runs at random moments, let them go on, and compare them with runs that nobody killed.

    python tests/faults/kills.py KILLS SEED FOLDER

A run is what a study makes of a job: training and judging, under the run's lock, of every kind of
model and of seeds side by side; checkpoints are as frequent as lines of the log. Each process is a
fork of this one, so that a kill costs no start of Python. Ends with 1 if anything differs.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

import torch

from triptych.data import load
from triptych.evaluate.classifier import features_for
from triptych.evaluate.evaluation import Evaluation
from triptych.study import run as run_module
from triptych.study.local import Place, run_job
from triptych.study.recipes import override, recipes_for
from triptych.study.run import Job
from triptych.train.fit import fit

QUICK = Evaluation(importance_samples=3, elbo_samples=2, images=40, steps=2, bound_draws=1)
PLACE = Place("digits", None, None, torch.device("cpu"))
WALL_CLOCK = ("samples-per-second",)


def cases():
    """Name: recipe and seeds."""
    known = recipes_for("digits")
    vae = override(known["vae-flow"], hidden=[16], coupling_hidden=[8], couplings=2, epochs=8)
    small = {"hidden": [16], "latent_dim": 2, "likelihood": "gaussian", "beta": 1e-3}
    spline = {"coupling": "spline", "bins": 4, "blocks": 1, "dequantization": "variational"}
    chain = {"widths": [8], "timesteps": 20, "epochs": 2}
    latent = {"vae": small, "vae_train": {"epochs": 3}, "width": 16, "timesteps": 20, "epochs": 4}
    return {
        "vae": (vae, (0,)),
        "stack": (override(vae, epochs=4), (0, 1, 2)),
        "pixelflow": (override(known["pixelflow"], steps=1, width=8, epochs=2), (0,)),
        "spline": (override(known["pixelflow"], steps=1, width=8, epochs=1, **spline), (0,)),
        "ddpm": (override(known["ddpm"], **chain, dropout=0.3, variance="learned"), (0,)),
        "vdm": (override(known["ddpm"], **chain, schedule="learned"), (0,)),
        "latent": (override(known["latent-ddpm"], **latent), (0,)),
    }


def forked(job):
    """The process id of a new process that does this job, and leaves without a word."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run_job(job, PLACE, QUICK, lambda said: None)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid):
    """Wait for a process; whether it did its job, and was not killed before."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a process failed by itself, with code {code}")
    return code == 0


def outcome(study):
    """What may not differ: hashes of all weights and moments, the log, the scores."""
    found = {}
    for path in sorted(study.rglob("*")):
        name = str(path.relative_to(study))
        if path.suffix == ".safetensors" and path.parent.name == "checkpoint":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "metrics.jsonl":
            rows = map(json.loads, path.read_text().splitlines())
            found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif path.name == "scores.json":
            rows = json.loads(path.read_text())["scores"]
            found[name] = [row for row in rows if row["metric"] not in WALL_CLOCK]
        elif path.name in ("config.json", "failure.json"):
            found[name] = path.read_text()
    return found


def moment(study):
    """In the middle of what a process was killed."""
    if list(study.rglob("checkpoint.new")):
        return "saving a checkpoint"
    if any(path.name.endswith(".new") for path in study.rglob("*")):
        return "writing another file"
    loops = [json.loads(p.read_text()) for p in study.glob("*/seed-*/checkpoint/loop.json")]
    if not loops:
        return "before the first checkpoint"
    return "judging" if all(x["step"] == x["steps"] for x in loops) else "training"


def kill_until_done(job, seconds, rng, kills, most):
    """Run a job to its end through at most so many kills; counts the moments of each."""
    while True:
        pid = forked(job)
        if kills.total() < most:
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
        if ended(pid):
            return
        kills[moment(job.study)] += 1


def main(most, seed, folder):
    torch.set_num_threads(1)
    features_for(load("digits"))
    run_module.fit = partial(fit, save_every=0.0)
    rng, whole, runs = random.Random(seed), {}, Counter()
    kills, seconds, wrong = Counter(), {}, 0
    while kills.total() < most:
        for name, (recipe, seeds) in cases().items():
            if name not in whole:
                began = time.monotonic()
                assert ended(forked(Job(recipe, seeds, folder / "whole" / name)))
                seconds[name] = time.monotonic() - began
                whole[name] = outcome(folder / "whole" / name)
            if kills.total() >= most:
                break
            study = folder / f"{name}-{runs[name]}"
            few = min(most, kills.total() + max(1, most // 20))
            kill_until_done(Job(recipe, seeds, study), seconds[name], rng, kills, few)
            runs[name] += 1
            if (found := outcome(study)) != whole[name]:
                wrong += 1
                differs = [
                    k for k in found.keys() | whole[name] if found.get(k) != whole[name].get(k)
                ]
                print(f"{study} differs in {', '.join(sorted(differs))}")
    print(f"{kills.total()} kills in {dict(kills)}; runs: {dict(runs)}; differ: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
