"""Small pieces of HTML: every text that comes from outside is escaped here."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import Any

STYLE = """
<style>
.block-container { max-width: 1240px; padding: 4.2rem 2rem 3rem; }
.md-lead { color: #4A5866; font-size: 1.02rem; margin: -0.6rem 0 0.2rem; }
.md-answer { display: flex; align-items: baseline; gap: 0.3rem 0.9rem; flex-wrap: wrap; }
.md-answer b { font-size: 1.9rem; line-height: 1.15; letter-spacing: -0.01em; overflow-wrap: anywhere; }
.md-answer span { font-size: 1.35rem; color: #4A5866; font-variant-numeric: tabular-nums; }
.md-answer mark { align-self: center; margin-left: auto; padding: 0.18rem 0.7rem; border-radius: 1rem; color: #FFFFFF;
  font-size: 0.87rem; font-weight: 600; }
.md-reason { margin-top: 0.35rem; color: #1B2530; font-size: 0.95rem; }
.md-bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 0.42rem 0.75rem;
  align-items: center; font-size: 0.93rem; }
.md-bars i { display: block; height: 0.72rem; border-radius: 3px; background: #E9EDF1; overflow: hidden; }
.md-bars i u { display: block; height: 100%; background: #93A1AF; }
.md-bars i.first u { background: #C04A17; }
.md-bars em { font-style: normal; text-align: right; font-variant-numeric: tabular-nums; color: #4A5866; }
.md-bars .first { font-weight: 650; color: inherit; }
.md-facts { color: #5A6875; font-size: 0.87rem; margin-top: 0.2rem; overflow-wrap: anywhere; }
.md-strip { display: grid; grid-template-columns: repeat(9, minmax(0, 72px)); gap: 6px; margin: 0.2rem 0 0.2rem; }
.md-strip img { width: 100%; border-radius: 5px; display: block; }
[data-testid="stFileUploaderDropzone"] { border: 1.5px dashed #B9C3CC; align-items: center; }
.st-key-first [data-testid="stFileUploaderDropzone"] { min-height: 6.5rem; }
[data-testid="stFileUploaderDropzone"]::after { content: "or drop files here"; margin-left: auto; color: #4A5866;
  padding-right: 0.8rem; }
.md-table { border-collapse: collapse; font-size: 0.9rem; width: 100%; }
.md-table th { text-align: left; font-weight: 600; color: #4A5866; border-bottom: 1px solid #DCE1E6; }
.md-table td, .md-table th { padding: 0.38rem 0.6rem; font-variant-numeric: tabular-nums; vertical-align: top; }
.md-table td { border-bottom: 1px solid #EEF1F4; }
.md-table td:first-child { min-width: 6.5rem; overflow-wrap: anywhere; }
.md-scroll { overflow-x: auto; }
.md-matrix { border-collapse: separate; border-spacing: 3px; font-size: 0.88rem; }
.md-matrix td { min-width: 2.9rem; height: 2.4rem; text-align: center; border-radius: 4px; background: #F3F5F7;
  font-variant-numeric: tabular-nums; }
.md-matrix th { font-weight: 500; color: #4A5866; padding: 0 0.4rem; text-align: right; }
.md-matrix thead th { text-align: center; font-size: 0.8rem; }
.md-steps { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; margin-top: 0.4rem; }
.md-steps div { background: #F3F5F7; border-radius: 8px; padding: 0.95rem 1.05rem; font-size: 0.93rem; color: #4A5866; }
.md-steps b { display: block; color: #1B2530; margin-bottom: 0.2rem; }
.md-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 0.75rem;
  margin-top: 0.3rem; }
.md-cards div { border: 1px solid #DCE1E6; border-left-width: 4px; border-radius: 8px; padding: 0.7rem 0.9rem; }
.md-cards span { display: block; color: #5A6875; font-size: 0.82rem; }
.md-cards b { font-size: 1.2rem; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.md-cards small { display: block; color: #5A6875; font-size: 0.78rem; }
@media (max-width: 640px) {
  .block-container { padding: 3.6rem 0.9rem 2rem; }
  .md-steps { grid-template-columns: 1fr; gap: 0.6rem; }
  .md-cards { grid-template-columns: 1fr 1fr; }
  [data-testid="stFileUploaderDropzone"]::after { content: none; }
  .md-strip { grid-template-columns: repeat(6, 1fr); }
  .md-cards b { font-size: 1.05rem; }
  .md-answer mark { margin-left: 0; }
  .md-matrix td { min-width: 1.9rem; }
  [data-testid="stButtonGroup"] button { padding: 0.25rem 0.6rem; }
}
</style>
"""

# The words and the colour of each verdict, the one that needs a person most first.
VERDICTS = {"unknown": ("Unknown", "#6B4FA0"), "review": ("Review", "#B4690E"), "accept": ("Accepted", "#2E7D54")}
_MOST_BARS = 10
_MOST_NAMES = 20


def format_share(share: float) -> str:
    """A probability as a percentage that never claims certainty."""
    if share > 0.999:
        return "> 99.9 %"
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def format_interval(value: Mapping[str, float] | None) -> str:
    """A share with its 95 % interval."""
    if not value:
        return "–"
    middle, low, high = (f"{100 * value[key]:.1f}" for key in ("value", "low", "high"))
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
    words, colour = VERDICTS.get(verdict, (verdict, "#5A6875"))
    badge = f'<mark style="background:{colour}">{escape(words)}</mark>' if words else ""
    line = f'<div class="md-reason">{escape(_capitalise(reason))}</div>' if reason else ""
    title, small = label, format_share(confidence)
    if verdict == "unknown":
        title, small = "Not one it knows", f"nearest: {label}, {small}"
    return f'<div class="md-answer"><b>{escape(title)}</b><span>{escape(small)}</span>{badge}</div>{line}'


def _capitalise(text: str) -> str:
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
        for (title, value, note), colour in zip_longest(entries, colours, fillvalue="#DCE1E6")
    )
    return f'<div class="md-cards">{"".join(boxes)}</div>'


def steps(entries: Sequence[tuple[str, str]]) -> str:
    """What to do, in boxes, from pairs of a title and a sentence."""
    boxes = (f"<div><b>{escape(title)}</b>{escape(text)}</div>" for title, text in entries)
    return f'<div class="md-steps">{"".join(boxes)}</div>'


def failures(entries: Sequence[tuple[str, str]]) -> str:
    """Names of files and why they have no answer; a reason that begins with the name is cut there."""
    short = ((name, reason.removeprefix(f"{name}: ").removeprefix("The image: ")) for name, reason in entries)
    return table(("File", "Reason"), [(name, _capitalise(reason)) for name, reason in short])


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
    colour = "46,125,84" if right else "192,74,23"
    return f'<td style="background:rgba({colour},{0.15 + 0.6 * share:.2f});font-weight:600">{count}</td>'
