"""Small pieces of HTML: every text that comes from outside is escaped here."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain, repeat
from typing import Any

from metal_defects.inference.verdict import VERDICTS
from metal_defects.metrics import Score

_WRONG = "#C04A17"
_MOST_BARS = 10
_MOST_NAMES = 20


def format_share(share: float) -> str:
    """A probability as a percentage that never claims certainty."""
    if share > 0.999:
        return "> 99.9 %"
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def format_interval(score: Score) -> str:
    """A share with its 95 % interval."""
    middle, low, high = (f"{100 * share:.1f}" for share in (score.value, score.low, score.high))
    return f"{middle}\u00a0% ({low}\u00a0–\u00a0{high}\u00a0%)"


def as_text(sentence: str) -> str:
    """Keep Markdown from reading underscores and brackets of paths and names."""
    return "".join("\\" + letter if letter in r"\`*_{}[]<>#$|~:" else letter for letter in sentence)


def list_classes(names: Sequence[str]) -> str:
    """All names, or how many there are."""
    return f"{len(names)} classes" if len(names) > _MOST_NAMES else ", ".join(names)


def lead(text: str) -> str:
    """A sentence below the title."""
    return f'<p class="md-lead">{escape(text)}</p>'


def answer(label: str, confidence: float, verdict: str | None, reason: str | None) -> str:
    """The label and its confidence, large; the verdict as a badge, with its reason below.

    The label of an unknown surface is only the nearest one, and is said to be that.
    """
    style = VERDICTS[verdict] if verdict else None
    badge = f'<mark style="background:{style.colour}">{escape(capitalise(style.title))}</mark>' if style else ""
    line = f'<div class="md-reason">{escape(capitalise(reason))}</div>' if reason else ""
    title, small = label, format_share(confidence)
    if verdict == "unknown":
        title, small = "Not one it knows", f"nearest: {label}, {small}"
    return f'<div class="md-answer"><b>{escape(title)}</b><span>{escape(small)}</span>{badge}</div>{line}'


def capitalise(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]


def share_bars(shares: Mapping[str, float], highlight: bool) -> str:
    """One bar for each of the most probable classes; the first in colour."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])[:_MOST_BARS]
    return _bars([(name, share, format_share(share)) for name, share in ordered], highlight)


def count_bars(counts: Mapping[str, int]) -> str:
    """One bar per class, in the order given."""
    most = max(1, *counts.values())
    return _bars([(name, count / most, str(count)) for name, count in counts.items()], highlight=False)


def _bars(entries: Sequence[tuple[str, float, str]], highlight: bool) -> str:
    cells = []
    for index, (name, share, text) in enumerate(entries):
        kind = ' class="first"' if highlight and index == 0 else ""
        bar = f'<i{kind}><u style="width:{100 * share:.1f}%"></u></i>'
        cells.append(f"<span{kind}>{escape(name)}</span>{bar}<em{kind}>{escape(text)}</em>")
    return f'<div class="md-bars">{"".join(cells)}</div>'


def facts(*parts: str) -> str:
    """A line of small print."""
    return f'<div class="md-facts">{" · ".join(escape(part) for part in parts)}</div>'


def strip(images: Sequence[tuple[str, str]]) -> str:
    """A row of small pictures, from pairs of a data URI and a description."""
    tags = (f'<img src="{escape(uri)}" alt="{escape(text)}" title="{escape(text)}">' for uri, text in images)
    return f'<div class="md-strip">{"".join(tags)}</div>'


def cards(entries: Sequence[tuple[str, str, str]], colours: Sequence[str] = ()) -> str:
    """Figures side by side, from triples of a title, a value and small print; the first ones with an edge in colour."""
    boxes = (
        f'<div style="border-left-color:{colour}"><span>{escape(title)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for (title, value, note), colour in zip(entries, chain(colours, repeat("#DCE1E6")), strict=False)
    )
    return f'<div class="md-cards">{"".join(boxes)}</div>'


def steps(entries: Sequence[tuple[str, str]]) -> str:
    """What to do, in boxes, from pairs of a title and a sentence."""
    boxes = (f"<div><b>{escape(title)}</b>{escape(text)}</div>" for title, text in entries)
    return f'<div class="md-steps">{"".join(boxes)}</div>'


def failures(entries: Sequence[tuple[str, str]]) -> str:
    """Names of files and why they have no answer; a reason that begins with the name is cut there."""
    short = ((name, reason.removeprefix(f"{name}: ").removeprefix("The image: ")) for name, reason in entries)
    return table(("File", "Reason"), [(name, capitalise(reason)) for name, reason in short])


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table that scrolls sideways on a narrow screen."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="md-scroll"><table class="md-table">{top}<tbody>{body}</tbody></table></div>'


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """True classes down, answers across; right answers are green, wrong ones orange, both by share of the row."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for index, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = max(1, sum(row))
        cells = "".join(_matrix_cell(count, count / total, index == column) for column, count in enumerate(row))
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<div class="md-scroll"><table class="md-matrix"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _matrix_cell(count: int, share: float, right: bool) -> str:
    if not count:
        return "<td>·</td>"
    colour = VERDICTS["accept"].colour if right else _WRONG
    opacity = round(255 * (0.15 + 0.6 * share))
    return f'<td style="background:{colour}{opacity:02X};font-weight:600">{count}</td>'
