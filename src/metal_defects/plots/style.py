"""The house style of every plot: figures, colours, files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metal_defects.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, QUIET, FAINT = "#222222", "#6b6b6b", "#dddddd"
# Okabe & Ito (2008), distinguishable with every common colour deficiency.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE)
CENTRED = {"ha": "center", "va": "center"}
FORMATS = (".png", ".jpg", ".jpeg")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure in the house style, `width` by `height` inches, with constrained layout.

    Sets matplotlib's default style for this process, because text and axes take their style when they are added.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()
    matplotlib.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10.5, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "figure.titlesize": 12, "figure.titleweight": "bold", "legend.fontsize": 8,
        "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": QUIET,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": QUIET, "ytick.color": QUIET,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.grid": False, "grid.color": FAINT,
        "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.prop_cycle": cycler(color=PALETTE),
        # A class may be called "$5 coin".
        "text.parse_math": False,
    })  # fmt: skip
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save_figure(figure: "Figure", target: Path) -> None:
    """Write `figure` to `target` as PNG or JPEG: whole or not at all, the same bytes for the same figure.

    Raises:
        ValueError: the suffix of `target` is neither .png, .jpg nor .jpeg.
    """
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"A plot's file must end in {', '.join(FORMATS)}. Got '{target.name}' instead.")
    png = target.suffix.lower() == ".png"
    with atomic_path(target) as partial:
        figure.savefig(
            partial,
            dpi=DPI,
            facecolor="white",
            metadata={"Software": None} if png else None,
            pil_kwargs={} if png else {"quality": 90, "optimize": True},
        )


def use_log_axis(axes: "Axes", which: str, values: Sequence[float]) -> None:
    """Make the "x" or "y" axis logarithmic with plain numbers; ticks within decades where `values` span below two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0,) if max(values) / min(values) >= 100 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def shorten(name: str) -> str:
    """At most 28 characters; long names often differ at their ends alone, so the middle goes."""
    return name if len(name) <= 28 else f"{name[:15]}…{name[-12:]}"
