"""Writes report.html, one self-contained file that prints well, and model_card.md."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metal_defects import __version__
from metal_defects.files import write_text
from metal_defects.inference.verdict import VERDICTS
from metal_defects.report import chapters
from metal_defects.report.findings import Findings
from metal_defects.report.first_page import make_first_page
from metal_defects.report.parts import Album, percent, ratio, say, show

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
# Characters of all pictures: with text and tables the report stays below 6 MB.
PICTURES = 5_000_000


def write_report(found: Findings, out: Path) -> None:
    """Write report.html and model_card.md into the folder `out`: the same bytes for the same findings."""
    selection = found.evaluation.selection
    content = {
        "found": found,
        "evaluation": found.evaluation,
        "page": make_first_page(found),
        "count": chapters,
        "album": Album(PICTURES),
        "offers": sorted((selection.chosen, *selection.others), key=lambda offer: offer.max_risk),
        "verdicts": VERDICTS.values(),
        "version": __version__,
    }
    for name, html in (("report.html", True), ("model_card.md", False)):
        text = _environment(html).get_template(f"{name}.j2").render(content)
        # No line ends between a number and its sign.
        write_text(out / name, text.replace(" %", "\u00a0%") if html else text)


def _environment(html: bool) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def escape_markdown(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        text = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return "".join(f"\\{letter}" if letter in "|`*[]\\" else letter for letter in text)

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=html,
        finalize=None if html else escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"percent": percent, "ratio": ratio, "say": say, "show": show}
    return made
