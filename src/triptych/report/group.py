"""Who hands the report in: group.toml."""

import datetime
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.report.made_of import own_file
from triptych.report.wording import listed

COURSE_NUMBER = "02460"
COURSE = f"Advanced Machine Learning ({COURSE_NUMBER})"


@dataclass(frozen=True)
class Group:
    """Names with student numbers. `placeholder` when there is no group.toml yet."""

    members: list[tuple[str, str]]
    course: str = COURSE
    date: str = ""
    placeholder: bool = False


def read_group(folders: Sequence[Path]) -> Group:
    """The first group.toml in these folders, else a placeholder that says what to write."""
    if path := own_file("group.toml", folders):
        return _parse(path)
    return Group([("NAME", "sNUMBER")], placeholder=True)


def _parse(path: Path) -> Group:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error}): save it as UTF-8 text.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML ({error}); fix that place.") from error
    rows = content.get("member")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path} names nobody: give each member a [[member]] block with name and number."
        )
    _check_keys(path, content, {"course", "date", "member"})
    for row in rows:
        if astray := sorted({"course", "date"} & row.keys()):
            raise UserError(
                f"{path} has {astray[0]} below a [[member]], whose it would be; write it above the "
                f"first [[member]]."
            )
        _check_keys(path, row, {"name", "number"})
    members = [(_text(path, row, "name"), _text(path, row, "number")) for row in rows]
    numbers = [number for _, number in members]
    if twice := next((number for number in numbers if numbers.count(number) > 1), None):
        raise UserError(f"{path} has the number {twice} twice; give each member their own.")
    course = _text(path, content, "course") if "course" in content else COURSE
    return Group(members, course, _text(path, content, "date") if "date" in content else "")


def _check_keys(path: Path, table: dict[str, Any], known: set[str]) -> None:
    """No key that is not known: a misspelt one would be lost."""
    if unknown := sorted(table.keys() - known):
        raise UserError(f"{path} has an unknown key {unknown[0]!r}; write {listed(sorted(known))}.")


def _text(path: Path, table: dict[str, Any], key: str) -> str:
    """A text that is not empty, or a date."""
    value = table.get(key)
    if isinstance(value, datetime.date):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        given = "missing" if value is None else repr(value)
        raise UserError(f'{path}: {key} is {given}; write a text, as in {key} = "...".')
    return value.strip()
