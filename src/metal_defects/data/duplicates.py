"""Finds copies of an image, so that no copy of a training image is ever tested on.

Perceptual hashes only propose: on textures they match what merely looks alike. What they propose is verified by
correlating the two images' fine structure, at the best of all small shifts, in all eight turns and reflections:
NEU-DET has scratches that were stored twice, the second time turned by 90 degrees.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np
from PIL import Image

from metal_defects.config import Duplicates
from metal_defects.log import track

THUMBNAIL_SIDE = 64

# Of 64 bits. Unrelated images differ in 32 on average; JPEG of quality 20, noise of 10 grey levels or a crop by
# 4 % of the side move at most 16 bits in 98 % of the images of NEU-DET and X-SDD.
MAX_HASH_DISTANCE = 16
MAX_SHIFT = 6  # thumbnail pixels: 9 % of the side
# Of the pairs that hashes propose on NEU-DET, 17 show one spot of steel and correlate by 0.83 to 1.00, one more by
# 0.78; unrelated ones, at most 0.78 (straight scratches) there and 0.71 on X-SDD.
MIN_CORRELATION = 0.8
_STRUCTURE_SIGMA = 3.0  # thumbnail pixels: what is coarser is lighting
_MIN_CONTRAST = 0.5  # grey levels, standard deviation: below, nothing but noise could be compared
_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class ImagePrint:
    """What copies of an image have in common.

    Attributes:
        file_sha256: of the file's bytes.
        pixel_sha256: of the decoded pixels and their shape.
        thumbnail: uint8 (64, 64), grey.
        hashes: perceptual hash of 64 bits, of the thumbnail in each of the eight orientations.
    """

    file_sha256: str
    pixel_sha256: str
    thumbnail: np.ndarray
    hashes: tuple[int, ...]

    @cached_property
    def structure(self) -> np.ndarray:
        """float32 (64, 64): the thumbnail without lighting, mean 0."""
        from scipy.ndimage import gaussian_filter

        grey = self.thumbnail.astype(np.float32)
        fine = grey - gaussian_filter(grey, _STRUCTURE_SIGMA, mode="nearest")
        structure: np.ndarray = fine - fine.mean()
        return structure


@dataclass(frozen=True)
class Match:
    """Two images, by index, that show the same.

    Attributes:
        first: the smaller index.
        second: the larger index.
        kind: equal files, equal pixels, nearly equal, or nearly equal once turned or reflected.
        correlation: of their fine structure.
    """

    first: int
    second: int
    kind: Literal["file", "pixels", "near", "turned"]
    correlation: float


def take_print(pixels: np.ndarray, file_sha256: str) -> ImagePrint:
    """Fingerprints of a decoded image.

    Args:
        pixels: uint8 (H, W, 3).
        file_sha256: of the file that they came from.
    """
    import imagehash

    image = Image.fromarray(pixels).convert("L")
    thumbnail = np.asarray(image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX))
    hashes = []
    for turned in _orient(thumbnail):
        bits = np.packbits(imagehash.phash(Image.fromarray(np.ascontiguousarray(turned))).hash)
        hashes.append(int.from_bytes(bits.tobytes(), "big"))
    digest = sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return ImagePrint(file_sha256, digest.hexdigest(), thumbnail, tuple(hashes))


def find_matches(prints: Sequence[ImagePrint], mode: Duplicates) -> list[Match]:
    """Pairs of copies; of k exact copies the k - 1 pairs with the first one are enough.

    Args:
        prints: one for each image, in a fixed order.
        mode: "exact" stops at equal files and equal pixels.

    Returns:
        Matches in the order of their indices.
    """
    if mode == "off":
        return []
    matches, originals = _find_exact(prints)
    if mode in ("near", "overlap"):
        matches += _find_near(prints, originals)
    return sorted(matches, key=lambda match: (match.first, match.second))


def group_pairs(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` images the smallest index that it is connected to by pairs, its own where there is none."""
    leader = list(range(count))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for pair in pairs:
        low, high = sorted(map(find, pair))
        leader[high] = low
    return [find(index) for index in range(count)]


def correlate_shifted(one: np.ndarray, other: np.ndarray) -> float:
    """Highest correlation of two images over all shifts of at most `MAX_SHIFT` pixels, on what then overlaps.

    Masked normalised cross-correlation by FFT (D. Padfield, IEEE TIP 21(5), 2012), for images of mean 0.

    Args:
        one: float (64, 64), mean 0.
        other: likewise.

    Returns:
        -1 to 1; 0 where an image is blank.
    """
    side = one.shape[0] + MAX_SHIFT
    shape = (side, side)
    first, second, first_squares, second_squares, mask = (
        np.fft.rfft2(image, shape) for image in (one, other, one**2, other**2, np.ones_like(one))
    )
    product = np.fft.irfft2(first * second.conj(), shape)
    energy = np.fft.irfft2(first_squares * mask.conj(), shape) * np.fft.irfft2(mask * second_squares.conj(), shape)
    shifts = np.r_[0 : MAX_SHIFT + 1, side - MAX_SHIFT : side]
    window = np.ix_(shifts, shifts)
    floor = (_MIN_CONTRAST * one.size / 2) ** 2
    return float(np.max(product[window] / np.sqrt(np.maximum(energy[window], floor))))


def _find_exact(prints: Sequence[ImagePrint]) -> tuple[list[Match], list[int]]:
    """Matches of equal files or pixels, and the indices of all images that repeat no earlier one."""
    first_file: dict[str, int] = {}
    first_pixels: dict[str, int] = {}
    matches, originals = [], []
    for index, item in enumerate(prints):
        same_file = first_file.setdefault(item.file_sha256, index)
        same_pixels = first_pixels.setdefault(item.pixel_sha256, index)
        if same_file != index:
            matches.append(Match(same_file, index, "file", 1.0))
        elif same_pixels != index:
            matches.append(Match(same_pixels, index, "pixels", 1.0))
        else:
            originals.append(index)
    return matches, originals


def _orient(image: np.ndarray) -> list[np.ndarray]:
    """The eight turns and reflections of a square image, the image itself first."""
    return [np.rot90(side, turns) for side in (image, image[:, ::-1]) for turns in range(4)]


def _find_near(prints: Sequence[ImagePrint], originals: list[int]) -> list[Match]:
    textured = [index for index in originals if prints[index].structure.std() >= _MIN_CONTRAST]
    hashes = np.array([prints[index].hashes for index in textured], np.uint64).reshape(-1, 8)
    candidates = [(textured[row], textured[column], turn) for row, column, turn in _find_close(hashes)]
    best: dict[tuple[int, int], Match] = {}
    for first, second, turn in track(candidates, "Comparing look-alikes", total=len(candidates)):
        turned = _orient(prints[second].structure)[turn]
        correlation = round(correlate_shifted(prints[first].structure, turned), 3)
        known = best.get((first, second))
        if correlation >= MIN_CORRELATION and (known is None or correlation > known.correlation):
            best[first, second] = Match(first, second, "turned" if turn else "near", correlation)
    return list(best.values())


def _find_close(hashes: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Pairs of images that hashes propose as copies; in blocks, to bound memory.

    Args:
        hashes: uint64 (N, 8), one for each orientation.

    Yields:
        First index, second index (larger), and the orientation of the second image that resembles the first.
    """
    for start in range(0, len(hashes), _BLOCK_ROWS):
        upright = hashes[start : start + _BLOCK_ROWS, 0, None]
        for turn in range(8):
            distances = np.bitwise_count(upright ^ hashes[None, start:, turn])
            rows, columns = np.nonzero(np.triu(distances <= MAX_HASH_DISTANCE, k=1))
            pairs = zip((rows + start).tolist(), (columns + start).tolist(), strict=True)
            yield from ((first, second, turn) for first, second in pairs)
