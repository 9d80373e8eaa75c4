"""A step as a GPU captures it. Whether it can be is seen without one: what a CUDA graph must not do
is to make a tensor of a number, or to read one."""

import gc
import os
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from toys import training_data

from triptych.nets.mlp import MLP
from triptych.study.build import build
from triptych.study.recipes import override, recipes_for
from triptych.train import capture
from triptych.train import ensemble as ensemble_module
from triptych.train.capture import WARM_UP, Captured, CapturedCalls
from triptych.train.precision import networks_in_bf16
from triptych.train.trainer import Run, Trainer

RECIPES = recipes_for("digits")
FORBIDDEN = {"lift_fresh", "_pin_memory"}  # a copy from the host
FORBIDDEN |= {"_local_scalar_dense", "equal", "nonzero", "masked_select", "bool index"}  # or to it
FORBIDDEN |= {"_unique2", "unique_dim", "bincount", "repeat_interleave"}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Heard(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        if "index" in func.overloadpacket.__name__:
            leaves, _ = tree_flatten(args[1:])
            if any(isinstance(a, torch.Tensor) and a.dtype == torch.bool for a in leaves):
                self.names.add("bool index")
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
def test_a_step_makes_no_tensor_of_a_number_and_reads_none(name, settings, seeds, monkeypatch):
    monkeypatch.setattr(ensemble_module, "is_read_at_once", lambda device: False)
    t = trainer(name, seeds, **settings)
    t.train_step()  # Adam's state is made by the first
    arguments = as_tensors(t, 1)
    with Heard() as heard:
        t._update(*arguments)
    assert len(heard.names) > 20
    assert not heard.names & FORBIDDEN


class Replayed:
    """A graph that runs the function again, on the CPU; where it was captured, it ran already."""

    def __init__(self):
        self.generators, self.f, self.of, self.ran = [], None, None, True

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def replay(self):
        if not self.ran:
            self.of.result.copy_(self.f(*self.of.arguments))
        self.ran = False


@pytest.fixture
def on_paper(monkeypatch):
    """`Captured` of a function, without a GPU."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replayed)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, **kwargs: nullcontext())

    def captured(f, generators=()):
        it = Captured(torch.device("cpu"), generators)
        it.graph.of, it.graph.f = it, f
        return it

    return captured


def test_what_is_replayed_sees_the_new_arguments_and_a_result_stays(on_paper):
    def f(pair, shift):
        return pair["a"] * shift + pair["b"]

    call, steps = on_paper(f), range(2 * WARM_UP + 1)
    given = [torch.full((2,), float(step)) for step in steps]
    results = [call(f, {"a": given[step], "b": 0.5}, step) for step in steps]
    for step in steps:
        assert torch.equal(results[step], torch.full((2,), step**2 + 0.5))
        assert torch.equal(given[step], torch.full((2,), float(step)))


def test_a_training_is_the_same_captured(on_paper):
    """Learning rate, share of the average, step, bent images and beta change from step to step."""
    asked = {"bent": 1.0, "kl_warmup": 0.5, "epochs": 4}
    plain, captured = (trainer("vae-flow", 2, **asked) for _ in "ab")
    captured.captured = on_paper(captured._update, captured.generators)
    assert captured.captured.graph.generators == captured.generators
    for _ in range(plain.steps):
        torch.testing.assert_close(captured.train_step(), plain.train_step(), rtol=1e-4, atol=0)
    for a, b in zip(captured.ema, plain.ema, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0.5].sum(),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor(1.0),
    ],
)
def test_what_a_step_must_not_do_would_be_heard(reads, monkeypatch):
    t = trainer("vae-gaussian")
    arguments, losses = as_tensors(t, 0), t.losses
    t.train_step()

    def with_it(x, noise):
        reads(x)
        return losses(x, noise)

    t.losses = with_it
    with Heard() as heard:
        t._update(*arguments)
    assert heard.names & FORBIDDEN


# torch.compile does not see through the checks of shapes.
unchecked = pytest.mark.skipif("JAXTYPING_DISABLE" not in os.environ, reason="JAXTYPING_DISABLE=1")


@gpu
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=unchecked)])
@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        *((name, s) for name in ("vae-flow", "vae-vamp", "vae-resampled") for s in (1, 3)),
        ("ddpm", 1),
    ],
)
def test_a_captured_step_is_the_step(name, seeds, compiled, monkeypatch):
    eager = trainer(name, seeds, "cuda")
    monkeypatch.setattr("triptych.train.trainer.WORTH_COMPILING", 0 if compiled else 10**9)
    captured = trainer(name, seeds, "cuda")
    eager.captured = None
    for _ in range(WARM_UP + 10):
        torch.testing.assert_close(captured.train_step(), eager.train_step(), rtol=1e-4, atol=0)
    # Convolutions add up in another order each time, and Adam makes much of tiny gradients.
    atol = 1e-3 if name == "ddpm" else 1e-5
    for a, b in zip(captured.ema, eager.ema, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=atol)


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


@pytest.mark.parametrize("bf16", [False, True])
def test_calls_are_taken_over_on_a_gpu_alone_and_given_back(bf16):
    net = MLP([2, 3])
    assert "forward" not in net.__dict__
    with networks_in_bf16(net, bf16):
        before = net.__dict__.get("forward")
        for device in ("cuda", "cpu"):
            with CapturedCalls(net).in_use(torch.device(device)):
                assert (net.__dict__.get("forward") is not before) == (device == "cuda")
            assert net.__dict__.get("forward") is before
    assert "forward" not in net.__dict__


def test_a_graph_that_failed_is_not_kept(monkeypatch):
    """Memory may have run out; the same call, or one of half the size, begins anew."""
    made = []

    class Fails:
        def __init__(self, device):
            made.append(self)

        def __call__(self, f, x):
            if len(made) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return f(x)

    monkeypatch.setattr(capture, "Captured", Fails)
    net, x = torch.nn.Linear(2, 3), torch.randn(4, 2)
    calls, expected = CapturedCalls(net), net(x)
    with calls.in_use(torch.device("cuda")):
        with pytest.raises(torch.OutOfMemoryError):
            net(x)
        assert not calls.graphs
        for _ in range(3):
            assert torch.equal(net(x), expected)
    assert len(made) == 2


def test_nothing_keeps_a_trainer_that_is_done():
    """On a GPU its memory would be missed where its model is judged."""
    gc.disable()
    try:
        gone = weakref.ref(trainer("vae-gaussian"))
        assert gone() is None
    finally:
        gc.enable()


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
