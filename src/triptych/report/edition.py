"""The two editions of the assignment: of what the report consists, and how it is headed."""

from dataclasses import dataclass

from triptych.errors import UserError
from triptych.report.snippets import SNIPPETS, Ask

SNIPPETS_HEADING = "Code snippets"
DECLARATION_HEADING = "Use of generative AI"
REFERENCES_HEADING = "References"


@dataclass(frozen=True)
class Edition:
    """`head` is the left of the running head, if there is one; `classifier`, the file of the
    course's own features, on which FID is asked for."""

    name: str
    title: str
    snippets: tuple[Ask, ...]
    head: str | None = None
    declaration: bool = False
    classifier: str | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """Files that the group must write; they stand beside the study, or where the program
        runs."""
        return ("group.toml", "ai.md") if self.declaration else ("group.toml",)

    @property
    def parts(self) -> tuple[tuple[str, int | None], ...]:
        """Headings in their order, with the pages that each part may take (None: any number)."""
        declared = ((DECLARATION_HEADING, 1),) if self.declaration else ()
        return ((self.title, 1), (SNIPPETS_HEADING, 1), *declared, (REFERENCES_HEADING, None))


LATENT = Ask(
    "Training and sampling of the latent DDPM",
    ("triptych.latent:LatentDDPM.loss", "triptych.latent:LatentDDPM.sample"),
    ("triptych.latent:LatentDDPM.encode", "triptych.latent:LatentDDPM.latents"),
)
EDITIONS = {
    "2024": Edition("2024", "Mini-project 1", SNIPPETS),
    "2026": Edition(
        "2026",
        "Mini-project 1 in Advanced Machine Learning (02460)",
        (*SNIPPETS, LATENT),
        head="02460-2026 Mini-project 1",
        declaration=True,
        classifier="mnist_classifier.pth",
    ),
}


def edition_named(name: str) -> Edition:
    """The edition of a study.json."""
    if name not in EDITIONS:
        raise UserError(
            f"there is no edition {name!r} of the assignment; study.json may name one of "
            f"{', '.join(EDITIONS)}"
        )
    return EDITIONS[name]
