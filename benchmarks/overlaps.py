"""How well and how fast overlapping crops are found: `--help` tells the rest."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _common import describe_machine, make_table, report, start

from metal_defects.data.overlaps import find_overlaps
from metal_defects.data.surface import Surface, choose_reduction, take_surface, turn_image
from metal_defects.log import console

SIDE = 200
EDGES = (0.0, 0.15, 0.25, 0.4, 0.6, 1.0)
# Standard deviations down and across, pixels: fine and coarse grain, waves, streaks.
GRAINS = ((2.0, 2.0), (4.0, 4.0), (7.0, 7.0), (3.0, 9.0), (2.0, 25.0), (40.0, 2.5))


def main(
    sheets: Annotated[int, typer.Option("--sheets", min=2, help="Large textures of every grain.")] = 8,
    crops: Annotated[int, typer.Option("--crops", min=2, help="Images cut from each.")] = 16,
    noise_db: Annotated[float, typer.Option("--noise", help="Signal-to-noise ratio of every image, dB.")] = 30.0,
    light: Annotated[float, typer.Option("--light", min=0, max=0.9, help="Brightness differs by so much.")] = 0.2,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Time the search on these images as well.")
    ] = None,
    seed: int = 0,
) -> None:
    """Cut crops out of large drawn textures, change light and noise of each, turn it, and look for what overlaps.

    Every texture is a sheet of its own: crops of two sheets share nothing, also of one grain. Recall is told by the
    share of the smaller crop that two of them have in common, precision over all pairs found.

    Example: python benchmarks/overlaps.py --data ~/NEU-DET
    """
    machine, rng = describe_machine(), np.random.default_rng(seed)
    images, places = [], []
    for grain in GRAINS:
        for sheet in range(sheets):
            texture = draw_sheet(rng, 3 * SIDE, grain)
            for _ in range(crops):
                top, left = rng.integers(0, 2 * SIDE, 2)
                crop = texture[top : top + SIDE, left : left + SIDE]
                images.append(photograph(turn_image(crop, int(rng.integers(8))), rng, light, noise_db))
                places.append((GRAINS.index(grain), sheet, top, left))
    begin = time.perf_counter()
    surfaces = [take_surface(image, choose_reduction([(SIDE, SIDE)])) for image in images]
    found = {(one.first, one.second) for one in find_overlaps(surfaces)}
    seconds = time.perf_counter() - begin
    shared = share_areas(np.array(places))
    table = make_table(f"{len(images)} crops of {len(GRAINS) * sheets} sheets", "common area", "pairs", "found")
    rows = []
    for low, high in pairwise(EDGES):
        pairs = {tuple(pair) for pair in np.argwhere((shared > low) & (shared <= high)).tolist()}
        rows.append({"from": low, "to": high, "pairs": len(pairs), "found": len(pairs & found)})
        table.add_row(f"{low:.0%} to {high:.0%}", str(len(pairs)), f"{len(pairs & found) / max(len(pairs), 1):.1%}")
    true = {tuple(pair) for pair in np.argwhere(shared > 0).tolist()}
    large = {tuple(pair) for pair in np.argwhere(shared >= 0.25).tolist()}
    recall, precision = len(large & found) / max(len(large), 1), len(true & found) / max(len(found), 1)
    notes = [f"From 25 % on: recall {recall:.1%}. Precision {precision:.1%} of {len(found)} pairs. {seconds:.1f} s."]
    notes += [_recall_by_grain(places, large, found)]
    search = time_search(data) if data else None
    if search:
        notes.append("{images} images of {folder}: {pairs} pairs in {seconds:.1f} s.".format(**search))
    result = {"rows": rows, "recall": recall, "precision": precision, "seconds": seconds, "search": search}
    report("overlaps", [table], notes, machine, result)


def draw_sheet(rng: np.random.Generator, side: int, grain: tuple[float, float]) -> np.ndarray:
    """A large rough surface, float (side, side), about 128 +- 25 grey levels, with a coarse and a fine part."""
    from scipy.ndimage import gaussian_filter

    coarse, fine = (gaussian_filter(rng.standard_normal((side, side)), scale) for scale in (grain, 1.2))
    return 128 + 22 * coarse / coarse.std() + 8 * fine / fine.std()


def photograph(crop: np.ndarray, rng: np.random.Generator, light: float, noise_db: float) -> np.ndarray:
    """The crop in other light and with noise, uint8 (H, W, 3)."""
    lit = crop * rng.uniform(1 - light, 1 + light)
    sigma = np.sqrt(np.mean(lit**2) / 10 ** (noise_db / 10))
    grey = np.clip(np.rint(lit + rng.normal(0, sigma, lit.shape)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def share_areas(places: np.ndarray) -> np.ndarray:
    """Common area of every pair of crops as a share of one, (n, n), above the diagonal; 0 across sheets."""
    same = (places[:, None, :2] == places[None, :, :2]).all(axis=2)
    common = np.maximum(SIDE - np.abs(places[:, None, 2:] - places[None, :, 2:]), 0).prod(axis=2)
    return np.triu(np.where(same, common / SIDE**2, 0.0), k=1)


def _recall_by_grain(places: list, large: set, found: set) -> str:
    told = []
    for number, grain in enumerate(GRAINS):
        own = {pair for pair in large if places[pair[0]][0] == number}
        told.append(f"{grain[0]:g} x {grain[1]:g} px {len(own & found) / max(len(own), 1):.1%}")
    return f"By grain: {', '.join(told)}."


def time_search(folder: Path) -> dict:
    """Pairs among the images of a folder, and the seconds from decoded pixels to pairs."""
    from metal_defects.config import load_settings
    from metal_defects.data.imaging import decode_image

    limits = load_settings(Path(__file__).resolve().parents[1]).data_schema.image
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))
    console.print(f"Reading {len(files)} images ...", style="dim", highlight=False)
    images = [decode_image(path, limits) for path in files]
    begin = time.perf_counter()
    reduction = choose_reduction([image.shape[1::-1] for image in images])
    surfaces: list[Surface] = [take_surface(image, reduction) for image in images]
    found = find_overlaps(surfaces)
    seconds = round(time.perf_counter() - begin, 1)
    return {"folder": folder.name, "images": len(images), "pairs": len(found), "seconds": seconds}


if __name__ == "__main__":
    start(main)
