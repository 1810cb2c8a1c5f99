"""Four plots to get to know a data set: how many, what they look like, how bright, what they have in common.

Only training images are looked at, so that nothing is decided by what the test images show; counts cover all splits.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from metal_defects.plots.style import BLUE, FAINT, ORANGE, QUIET, SKY, new_figure, save_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BIN_WIDTH = 4  # grey levels
THUMBNAIL = 112  # pixels
MAX_CLASSES_COUNTED, MAX_CLASSES_SHOWN, SAMPLES = 40, 12, 8
SPLIT_COLOURS = {"train": BLUE, "valid": SKY, "test": ORANGE}


@dataclass(frozen=True)
class Description:
    """What the plots keep of one image.

    Attributes:
        thumbnail: grey levels, float32 (THUMBNAIL, THUMBNAIL), 0 to 255.
        histogram: pixels per bin of `BIN_WIDTH` grey levels.
    """

    thumbnail: np.ndarray
    histogram: np.ndarray


@dataclass
class ClassStatistics:
    """Sums over the images of one class; all but `counts` over its training images."""

    counts: Counter = field(default_factory=Counter)
    files: list[Path] = field(default_factory=list)
    thumbnails: np.ndarray = field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL)))
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(256 // BIN_WIDTH))

    def add(self, split: str, path: Path, description: Description) -> None:
        """Count one image; `path` is its preprocessed file."""
        self.counts[split] += 1
        if split == "train":
            self.files.append(path)
            self.thumbnails += description.thumbnail
            self.histogram += description.histogram

    @property
    def mean_image(self) -> np.ndarray:
        """Mean grey levels of the training images, (THUMBNAIL, THUMBNAIL)."""
        return self.thumbnails / max(len(self.files), 1)

    @property
    def intensity_share(self) -> np.ndarray:
        """Percentage of the training pixels in each bin."""
        return 100 * self.histogram / max(self.histogram.sum(), 1)


def describe(image: np.ndarray) -> Description:
    """Summarise uint8 (H, W, 3), square."""
    grey = Image.fromarray(image).convert("L")
    histogram = np.asarray(grey.histogram()).reshape(-1, BIN_WIDTH).sum(axis=1)
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return Description(np.asarray(small, np.float32), histogram)


def write_exploratory_plots(folder: Path, statistics: Mapping[str, ClassStatistics]) -> None:
    """Write class_counts.png, sample_images.png, intensity_histograms.png and mean_images.png.

    Args:
        folder: where to; made where missing.
        statistics: per class, in the order to draw. Where there are more classes than fit, the largest are drawn
            and the titles say so.
    """
    save_figure(_draw_counts(statistics), folder / "class_counts.png")
    shown = _choose_largest(statistics, MAX_CLASSES_SHOWN)
    extent = "" if len(shown) == len(statistics) else f", the {len(shown)} largest of {len(statistics)} classes"
    save_figure(_draw_samples(shown, extent), folder / "sample_images.png")
    save_figure(_draw_histograms(shown, extent), folder / "intensity_histograms.png")
    save_figure(_draw_means(shown, extent), folder / "mean_images.png")


def _choose_largest(statistics: Mapping[str, ClassStatistics], most: int) -> dict[str, ClassStatistics]:
    """The `most` classes with the most images, in their given order."""
    largest = sorted(statistics, key=lambda name: -statistics[name].counts.total())[:most]
    return {name: statistics[name] for name in statistics if name in largest}


def _draw_counts(statistics: Mapping[str, ClassStatistics]) -> "Figure":
    """Stacked horizontal bars: images per class and split."""
    import seaborn
    from matplotlib.patches import Patch

    shown = _choose_largest(statistics, MAX_CLASSES_COUNTED)
    figure = new_figure(7.5, 1.5 + 0.32 * len(shown))
    axes = figure.add_subplot()
    names, splits = list(shown), list(SPLIT_COLOURS)
    bars = {
        "class": [name for name in names for _ in splits],
        "split": splits * len(names),
        "images": [shown[name].counts[split] for name in names for split in splits],
    }
    seaborn.histplot(
        bars, y="class", hue="split", weights="images", multiple="stack", hue_order=splits[::-1], discrete=True,
        shrink=0.72, palette=SPLIT_COLOURS, alpha=1, linewidth=0, ax=axes,
    )  # fmt: skip
    for row, statistic in enumerate(shown.values()):
        parts = " + ".join(str(statistic.counts[split]) for split in splits)
        axes.annotate(
            parts, (statistic.counts.total(), row), (4, 0), textcoords="offset points", va="center", color=QUIET,
            fontsize=7.5,
        )  # fmt: skip
    extent = "" if len(shown) == len(statistics) else f", the {len(shown)} largest of {len(statistics)} classes"
    axes.set_title(f"Images per class and split{extent}", pad=24)
    totals = {split: sum(statistic.counts[split] for statistic in statistics.values()) for split in splits}
    handles = [Patch(color=SPLIT_COLOURS[split], label=f"{split}: {totals[split]}") for split in splits]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, borderaxespad=0.2)
    axes.set(xlabel="images", ylabel="", yticks=range(len(names)), yticklabels=[shorten(name) for name in names])
    axes.margins(x=0.16, y=0.01)
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="x")
    axes.tick_params(length=0)
    return figure


def _draw_samples(shown: Mapping[str, ClassStatistics], extent: str) -> "Figure":
    """One row of evenly picked training images per class."""
    side, pitch = 150, 160
    sheet = Image.new("RGB", (SAMPLES * pitch, len(shown) * pitch), "white")
    for row, statistic in enumerate(shown.values()):
        for column, path in enumerate(_pick_evenly(statistic.files, SAMPLES)):
            with Image.open(path) as image:
                sheet.paste(image.resize((side, side)), (column * pitch, row * pitch))
    label_width = 0.4 + 0.09 * max(len(shorten(name)) for name in shown)
    figure = new_figure(1.07 * SAMPLES + label_width, 1.07 * len(shown) + 0.4)
    figure.suptitle(f"Training images of each class{extent}", x=0.01, ha="left")
    axes = figure.add_subplot()
    axes.imshow(np.asarray(sheet))
    middles = [row * pitch + side / 2 for row in range(len(shown))]
    axes.set_yticks(middles, [shorten(name) for name in shown], fontweight="bold")
    axes.set_xticks(())
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _pick_evenly(items: Sequence[Path], most: int) -> list[Path]:
    step = max(len(items) / most, 1)
    return [items[int(step * index)] for index in range(min(most, len(items)))]


def _draw_histograms(shown: Mapping[str, ClassStatistics], extent: str) -> "Figure":
    """How often each grey level occurs in a class, over the mean of the classes drawn."""
    import seaborn

    shares = [statistic.intensity_share for statistic in shown.values()]
    middles = np.arange(256 // BIN_WIDTH) * BIN_WIDTH + (BIN_WIDTH - 1) / 2
    common = np.mean(shares, axis=0)
    ceiling = 1.12 * max(max(share[1:-1].max() for share in shares), common.max(), 1)
    figure = new_figure(9.5, 0.8 + 1.75 * math.ceil(len(shown) / 3))
    figure.suptitle(f"Grey levels of the training images{extent}", x=0.01, ha="left")
    for axes, (name, _), share in zip(_facets(figure, len(shown), 3), shown.items(), shares, strict=True):
        axes.fill_between(middles, common, color=FAINT, linewidth=0, label="mean of these classes")
        seaborn.lineplot(x=middles, y=share, color=BLUE, linewidth=1.4, label="this class", legend=False, ax=axes)
        mean = float(middles @ share / 100)
        axes.axvline(mean, color=ORANGE, linewidth=1.2, label="its mean")
        axes.set_title(f"{shorten(name)}  (mean {mean:.0f})")
        axes.set(xlim=(0, 255), ylim=(0, ceiling), xticks=(0, 64, 128, 192, 255))
        axes.annotate(
            f"{share[-1]:.0f} % of pixels\nat {256 - BIN_WIDTH} or more" if share[-1] > ceiling else "",
            (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=7, color=QUIET,
        )  # fmt: skip
    figure.supxlabel("grey level (0 black, 255 white)", fontsize=9)
    figure.supylabel(f"% of pixels per {BIN_WIDTH} grey levels", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _draw_means(shown: Mapping[str, ClassStatistics], extent: str) -> "Figure":
    """Mean image per class on one shared grey scale: uneven lighting and a camera's fixed flaws show here."""
    import seaborn

    means = {name: statistic.mean_image for name, statistic in shown.items()}
    low = min(mean.min() for mean in means.values())
    high = max(mean.max() for mean in means.values())
    columns = min(len(shown), 4 if len(shown) > 6 else 3)
    figure = new_figure(1 + 2.1 * columns, 0.7 + 2.3 * math.ceil(len(shown) / columns))
    figure.suptitle(f"Mean of the training images{extent}", x=0.01, ha="left")
    facets = list(_facets(figure, len(shown), columns))
    for axes, (name, mean) in zip(facets, means.items(), strict=True):
        seaborn.heatmap(
            mean, vmin=low, vmax=high, cmap="gray", square=True, cbar=False, xticklabels=False, yticklabels=False,
            rasterized=True, ax=axes,
        )  # fmt: skip
        axes.spines[:].set(visible=True, color=FAINT)
        axes.set_title(shorten(name))
        axes.set_xlabel(f"{len(shown[name].files)} images, mean {mean.mean():.0f}", color=QUIET, fontsize=8)
    bar = figure.colorbar(facets[0].collections[0], ax=facets, shrink=0.7, aspect=30)
    bar.set_label("grey level (the scale covers what occurs)")
    bar.outline.set_edgecolor(FAINT)
    return figure


def _facets(figure: "Figure", count: int, columns: int) -> "Iterator[Axes]":
    grid = figure.subplots(math.ceil(count / columns), columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    yield from grid[:count]
