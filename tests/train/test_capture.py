"""A step as a GPU captures it. Whether it can be is seen without one: what a CUDA graph must not do
is to make a tensor of a number, or to read one."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from toys import training_data

from triptych.study.build import build
from triptych.study.recipes import override, recipes_for
from triptych.train.batches import Inputs
from triptych.train.capture import WARM_UP, CapturedCalls
from triptych.train.trainer import Run, Trainer

RECIPES = recipes_for("digits")
FORBIDDEN = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "_pin_memory")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Heard(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def trainer(name, seeds=1, device="cpu", **settings):
    recipe = override(RECIPES[name], **{"batch_size": 16, **settings})
    torch.manual_seed(0)
    models = [build(recipe.model, (1, 8, 8), 17).to(device) for _ in range(seeds)]
    data = training_data(recipe.view, n=40)
    moved = type(data)(data.images.to(device), data.validation.to(device), data.view, data.levels)
    return Trainer(models, [Run(s, Path()) for s in range(seeds)], moved, recipe.train)


def as_tensors(t, step):
    """The arguments of a captured step."""
    inputs = t.batches.inputs([run.seed for run in t.runs], step)
    arguments = (inputs, step, 1e-3, 0.1)
    return tree_map(torch.as_tensor, arguments)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in RECIPES),
        ("vae-flow", {"bent": 1.0, "kl_warmup": 0.5}),
        ("vae-gaussian", {"objective": "iwae", "posterior": "full"}),
        ("vae-gaussian", {"network": "residual", "likelihood": "autoregressive"}),
        ("ddpm", {"variance": "learned", "dropout": 0.1}),
    ],
)
def test_a_step_makes_no_tensor_of_a_number_and_reads_none(name, settings, seeds):
    t = trainer(name, seeds, **settings)
    t.train_step()  # Adam's state is made by the first
    arguments = as_tensors(t, 1)
    with Heard() as heard:
        t._update(*arguments)
    assert len(heard.names) > 20
    assert not heard.names & set(FORBIDDEN)


def test_numbers_and_tensors_make_the_same_step():
    """Bent images among them, whose number a captured step may not read."""
    asked = {"bent": 1.0, "kl_warmup": 0.5, "epochs": 4}
    numbers, tensors = (trainer("vae-flow", 2, **asked) for _ in "ab")
    for step in range(4):
        losses = numbers.train_step()
        for ours, theirs in zip(tensors.generators, numbers.generators, strict=True):
            ours.manual_seed(theirs.initial_seed())
        inputs, _, _, _ = as_tensors(tensors, step)
        assert isinstance(inputs, Inputs)
        lr = numbers.optimizer.param_groups[0]["lr"]
        fresh = 1 - min(0.999, (1 + step) / (10 + step))
        again = tensors._update(inputs, torch.tensor(step), torch.tensor(lr), torch.tensor(fresh))
        torch.testing.assert_close(again, losses)
    for a, b in zip(numbers.ema, tensors.ema, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@gpu
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", ["vae-flow", "vae-vamp", "vae-resampled", "ddpm"])
def test_a_captured_step_is_the_step(name, seeds):
    eager, captured = (trainer(name, seeds, "cuda") for _ in "ab")
    eager.update = eager._update
    for _ in range(WARM_UP + 10):
        torch.testing.assert_close(captured.train_step(), eager.train_step(), rtol=1e-4, atol=0)
    for a, b in zip(captured.ema, eager.ema, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@gpu
def test_a_captured_step_freezes_the_weights_at_what_is_not_finite():
    t = trainer("vae-gaussian", 2, "cuda")
    for _ in range(WARM_UP + 2):
        t.train_step()
    with torch.no_grad():
        t.ensemble.parameters[0][1, 0, 0] = float("nan")
    before = [p.clone() for p in t.ensemble.parameters]
    for _ in range(3):
        t.train_step()
    assert t.first_bad.item() == WARM_UP + 2
    for a, b in zip(before, t.ensemble.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_calls_are_left_alone_without_a_gpu_and_afterwards():
    net, x = torch.nn.Linear(2, 3), torch.randn(4, 2)
    usual = net(x)
    for own in (None, lambda x: x):
        if own:
            net.forward = own
        with CapturedCalls(net).in_use(torch.device("cpu")):
            assert torch.equal(net(x), x if own else usual)
        assert net.__dict__.get("forward") is own


@gpu
@torch.no_grad()
def test_captured_calls_are_the_calls_whatever_their_shape():
    net = torch.nn.Linear(2, 3).cuda()
    calls = CapturedCalls(net)
    for _ in range(2 * WARM_UP):
        for n in (4, 7):
            x = torch.randn(n, 2, device="cuda")
            with calls.in_use(x.device):
                captured = net(x)
            torch.testing.assert_close(captured, net(x))
    assert len(calls.graphs) == 2
