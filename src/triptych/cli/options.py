"""Options that several commands share."""

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from triptych.errors import UserError

if TYPE_CHECKING:
    import torch

# The words of study/configs.py and evaluate/evaluation.py once more, whose import would load torch;
# tests/study/test_study_files.py compares them.
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
PosteriorName = Literal["gaussian", "full", "coupling", "iaf"]
ObjectiveName = Literal["elbo", "iwae"]
NetworkName = Literal["mlp", "gated", "residual"]
IMAGES = "{digits,mnist,fashion,kmnist,OWN}"
SamplerName = Literal["ancestral", "ddim", "dpm-solver++", "unipc", "heun"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]


def usually(kind: str, default: str) -> Any:
    """Of an option that is None unless given: what it takes, and what stands in for it."""
    return tyro.conf.arg(metavar=kind, help_behavior_hint=f"(default: {default})")


def one_of(names: Any) -> str:
    """The words of a Literal, as the help lists them: tyro would add None to them."""
    return f"{{{','.join(get_args(names))}}}"


def choice(names: Any) -> PrimitiveConstructorSpec[str]:
    """An option that is a word of this Literal; any other is refused in a sentence."""
    known = get_args(names)

    def chosen(words: list[str]) -> str:
        if words[0] not in known:
            raise UserError(f"{words[0]!r} cannot be chosen; choose one of {', '.join(known)}")
        return words[0]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=one_of(names),
        instance_from_str=chosen,
        is_instance=lambda value: value is None or value in known,
        str_from_instance=lambda value: [str(value)],
    )


NUMBERS = ConstructorRegistry()


@NUMBERS.primitive_rule
def number(asked: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """An option that is a number; what is none is refused in a sentence."""
    kind = asked.type
    if kind not in (int, float):
        return None
    name, such = ("whole number", "5") if kind is int else ("number", "0.5")

    def converted(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            raise UserError(f"{words[0]!r} is not a {name}; write one, such as {such}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=converted,
        is_instance=lambda value: isinstance(value, int | kind),
        str_from_instance=lambda value: [str(value)],
    )


@dataclass(frozen=True)
class Where:
    """Options of every command that computes."""

    data: Annotated[Path | None, usually("PATH", "TRIPTYCH_DATA, else fetched")] = None
    """folder of data files"""
    device: Annotated[Device, choice(Device)] = "cpu"
    """where to compute"""
    deterministic: bool = False
    """use only operations that a GPU repeats bit for bit"""

    def ready(self) -> "torch.device":
        """The device, if this machine has it, with what follows done as asked."""
        from triptych.study.execute import device_named
        from triptych.train.allocation import keep_freed_memory, keep_to_granted_cores
        from triptych.train.determinism import deterministic

        deterministic(self.deterministic)
        keep_freed_memory()
        keep_to_granted_cores()
        return device_named(self.device)


@dataclass(frozen=True)
class Judged(Where):
    """And of those that judge."""

    features: Annotated[Path | None, usually("PATH", "triptych's own")] = None
    """network of FID: mnist_classifier.pth, inception, or a file of train-features"""


NOTHING = "(default: none)"
Trackers = Annotated[
    tuple[Annotated[TrackerName, choice(TrackerName)], ...],
    tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint=NOTHING),
]
Settings = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="set", metavar="[KEY=VALUE ...]", help_behavior_hint=NOTHING),
]


def parsed(settings: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE as a study's TOML file has them; what is no TOML value is text."""
    found: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not (key and equals) or len(text.splitlines()) > 1:
            said = " ".join(text.split())
            raise UserError(
                f"--set {said} cannot be used; write KEY=VALUE, as in --set epochs=5 lr=1e-3"
            )
        if key in found:
            raise UserError(f"--set has {key} twice, {found[key]} and {value}; leave one out")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except ValueError:  # TOMLDecodeError is one; so is an integer of thousands of digits
            found[key] = value
        except RecursionError:
            raise UserError(f"--set {key} is nested too deeply; write it flat") from None
    return found


def check_data(dataset: str, data: Path | None) -> None:
    """UserError where files are named for the digits, the default, which need none."""
    if data is not None and dataset == "digits":
        raise UserError(
            f"--data {data} has no effect on the digits, which come without files; name the images "
            f"in it with --dataset, or leave it out"
        )


def check_out(out: Path) -> None:
    """Refuse a place among the files of a run, or one of those of a study (UserError), and one that
    cannot be written (OSError)."""
    from triptych.train.files import check_place

    folders, of_run = (out.parent, out.parent.parent), ("config.json", "checkpoint")
    run = any(all((folder / name).exists() for name in of_run) for folder in folders)
    study = out.name in ("study.json", "results.json") and (out.parent / "study.json").exists()
    if run or study:
        raise UserError(
            f"--out {out} is among the files of a {'run' if run else 'study'}, one of which it "
            f"might replace; choose another place"
        )
    check_place(out)


def merged(options: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Options of a command and those of --set; none may be given twice, as far as it is not at
    its default."""
    if twice := sorted(options.keys() & settings.keys()):
        raise UserError(
            f"{twice[0]} = {options[twice[0]]} and --set {twice[0]}={settings[twice[0]]} are given "
            f"both; leave one of them out"
        )
    return options | settings


# Among a command's own options, to save the help a heading.
Computing = Annotated[Where, tyro.conf.arg(name="")]
Judging = Annotated[Judged, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Sampling:
    """How a DDPM or a pixel flow samples, where a command draws from it."""

    sampler: Annotated[
        SamplerName | None,
        choice(SamplerName),
        usually(one_of(SamplerName), "ddim to evaluate, ancestral to sample"),
    ] = None
    """how a DDPM samples"""
    steps: Annotated[int | None, usually("INT", "50")] = None
    """steps of all but ancestral"""
    eta: Annotated[float | None, usually("FLOAT", "0")] = None
    """noise of ddim, dpm-solver++; 1: the chain's"""
    noise_below: Annotated[float | None, usually("FLOAT", "all")] = None
    """noise only in steps that begin below this sigma / alpha"""
    rho: Annotated[float | None, usually("FLOAT", "evenly in log s")] = None
    """spaces times evenly in s^(1/rho), s = sigma / alpha; not of ddim"""
    guidance: Annotated[float | None, usually("FLOAT", "1, none")] = None
    """autoguidance: weight of the prediction over that of early weights"""
    temperature: Annotated[float | None, usually("FLOAT", "1")] = None
    """scale of a pixel flow's base noise"""

    def asked(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}
