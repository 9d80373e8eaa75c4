"""beartype as PEP 484 reads annotations: an int is a float."""

from pathlib import Path

from beartype import BeartypeConf, beartype

SOURCE = Path(__file__).parents[1] / "src"
AS_PEP_484 = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False)  # of calls alone
checked = beartype(conf=AS_PEP_484)


def modules() -> tuple[list[str], list[str]]:
    """The package's modules that name the shapes of tensors, and those that do not: to check these
    costs less, for jaxtyping binds the arguments of every call to their names."""
    shaped, plain = [], []
    for file in sorted(SOURCE.rglob("*.py")):
        name = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        text = file.read_text()
        if not name.endswith("__init__"):
            (shaped if "jaxtyping" in text else plain).append(name)
        elif "def " in text:
            assert "jaxtyping" not in text, f"{file} would have its whole package's shapes checked"
            plain.append(name.removesuffix(".__init__"))
    return shaped, plain
