"""Commands about data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from triptych.cli.options import IMAGES, check_out, choice, usually
from triptych.errors import UserError

Action = Literal["fetch", "verify"]


@dataclass(frozen=True)
class Data:
    """Fetch a data set, or verify the files that are there."""

    action: Positional[Annotated[Action, choice(Action)]]
    """what to do"""
    name: Positional[Annotated[str, tyro.conf.arg(metavar=IMAGES)]]
    """data set; or OWN: the file OWN.npz in --data"""
    data: Annotated[Path | None, usually("PATH", "TRIPTYCH_DATA, else the cache")] = None
    """folder to verify"""

    def run(self) -> None:
        from triptych.data import fetch, verify

        if self.action == "fetch":
            if self.data is not None:
                raise UserError(
                    f"--data {self.data} is to verify; fetch writes to the cache: leave it out, or "
                    f"for images of your own use data verify"
                )
            print(f"{self.name} is in {fetch(self.name)}")
        else:
            print("\n".join(verify(self.name, self.data)))


@dataclass(frozen=True)
class TrainFeatures:
    """Train a data set's feature network by its fixed recipe and write its weights."""

    dataset: Positional[Annotated[str, tyro.conf.arg(metavar=IMAGES)]]
    """data set whose labels to learn"""
    out: Path
    """.safetensors file to write, in half precision"""
    data: Annotated[Path | None, usually("PATH", "TRIPTYCH_DATA, else fetched")] = None
    """folder of the data files"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.evaluate.classifier import train_classifier, write_features
        from triptych.train.allocation import keep_freed_memory, keep_to_granted_cores

        if self.out.suffix != ".safetensors":
            raise UserError(f"--out {self.out} cannot be written; name a .safetensors file")
        check_out(self.out)
        keep_freed_memory()
        keep_to_granted_cores()
        net, accuracy = train_classifier(load(self.dataset, self.data))
        write_features(self.out, net, accuracy)
        print(f"wrote {self.out}; accuracy on the test images {accuracy:.4f}")
