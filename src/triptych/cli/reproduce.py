"""The command that does a run again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from triptych.cli.options import Judged, Judging
from triptych.errors import RunFailed


@dataclass(frozen=True)
class Reproduce:
    """Train and judge a run again from its config.json, and compare every weight and score."""

    path: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of a finished run, STUDY/MODEL/seed-S"""
    where: Judging = field(default_factory=Judged)
    out: Path = Path("runs/reproduce")
    """folder; the new run is written to OUT/MODEL/seed-S"""

    def run(self) -> None:
        from triptych.data import load
        from triptych.study.display import bar_for
        from triptych.study.reproduce import reproduce, table
        from triptych.study.store import RunFolder

        run = RunFolder(self.path)
        recipe, dataset, _ = run.config()
        data = load(dataset, self.where.data).to(self.where.ready())
        rows = reproduce(run, self.out, data, self.where.features, bar_for(recipe.name))
        print(table(rows))
        if wrong := [row.what for row in rows if not row.equal]:
            raise RunFailed(
                f"{self.path} came out differently in {', '.join(wrong)}; compare the commit, the "
                f"libraries and the device in its manifest.json with those here"
            )
        print(f"{self.path} came out the same in all {len(rows)}")
