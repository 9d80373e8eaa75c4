"""Who hands the report in: group.toml."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triptych.errors import UserError

COURSE = "Advanced Machine Learning (02460)"


@dataclass(frozen=True)
class Group:
    """Names with student numbers. `placeholder` when there is no group.toml yet."""

    members: list[tuple[str, str]]
    course: str = COURSE
    date: str = ""
    placeholder: bool = False


def read_group(folders: Sequence[Path]) -> Group:
    """The first group.toml in these folders, else a placeholder that says what to write."""
    for folder in folders:
        path = folder / "group.toml"
        if path.is_file():
            return _parse(path)
    return Group([("NAME", "sNUMBER")], placeholder=True)


def _parse(path: Path) -> Group:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}).") from error
    try:
        members = [(str(m["name"]).strip(), str(m["number"]).strip()) for m in content["member"]]
    except (KeyError, TypeError):
        members = []
    if not members or not all(name and number for name, number in members):
        raise UserError(
            f"{path} names nobody: give each member a [[member]] block with name and number."
        )
    return Group(members, str(content.get("course", COURSE)), str(content.get("date", "")))
