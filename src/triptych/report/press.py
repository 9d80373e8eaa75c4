"""Typst, which sets the report, and tells where on the page it set what."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typst

from triptych.train.files import write_bytes

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Place:
    """A place in the set report: its page, and points from the page's top."""

    page: int
    y: float


class Press:
    """A folder with the template and its data, compiled by Typst with its own fonts, or with the
    machine's for the letters that those lack."""

    def __init__(self, folder: Path, machine_fonts: bool) -> None:
        self.folder = folder
        self.data: dict[str, Any] = {}
        self.fonts = typst.Fonts(include_system_fonts=machine_fonts)
        self.own_only = not machine_fonts
        for name in ("template.typ", "references.bib"):
            shutil.copy(HERE / name, folder)

    def update(self, **data: Any) -> None:
        """Adds to the report's content."""
        self.data |= data
        (self.folder / "data.json").write_text(json.dumps(self.data))

    def marks(self) -> dict[str, Place]:
        """Where each mark of the template fell, by its name."""
        found = json.loads(self._compiler().query("<mark>", field="value"))
        return {mark["name"]: Place(mark["page"], mark["y"]) for mark in found}

    def compile(self, path: Path) -> None:
        """Writes the PDF; the same content gives the same bytes."""
        pdf = self._compiler().compile()
        assert isinstance(pdf, bytes)  # not pages of pictures
        write_bytes(path, pdf)

    def _compiler(self) -> typst.Compiler:
        return typst.Compiler(
            self.folder / "template.typ",
            root=self.folder,
            font_paths=self.fonts,
            ignore_system_fonts=self.own_only,
        )
