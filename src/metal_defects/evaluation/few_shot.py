"""A head for a handful of labelled images per class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from metal_defects.evaluation.heads import Fit, Predict
from metal_defects.models.augmentation import to_pixels

VIEWS = 8
SHRINKAGE = 1.0
LEAST_CROP = 0.55  # of the side: smaller ones no longer show the texture of every class


def crop_view(image: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Another part of the same surface in another light: a random crop, turned, flipped and relit.

    The damage of `metal_defects.models.augmentation` stays out: a few images cannot tell it from what makes a class.

    Args:
        image: uint8 (side, side, 3).
        seed: the view is a function of this and the image alone.

    Returns:
        uint8 (side, side, 3).
    """
    random, side = np.random.default_rng(seed), image.shape[0]
    part = max(1, round(side * random.uniform(LEAST_CROP, 1)))
    top, left = random.integers(side - part + 1, size=2)
    crop = np.rot90(image[top : top + part, left : left + part], int(random.integers(4)))[:: random.choice((-1, 1))]
    levels = crop.astype(np.float32)
    contrast, brightness = np.exp(random.uniform(-0.3, 0.3)), random.uniform(-0.15, 0.15) * 255
    relit = to_pixels((levels - levels.mean()) * contrast + levels.mean() + brightness)
    return np.asarray(Image.fromarray(relit).resize((side, side), Image.Resampling.BILINEAR))


def fit_few_shot_head(taps: Sequence[slice]) -> Fit:
    """Linear discriminant whose idea of what does not matter comes from views as well as from classes.

    Variances are taken as logarithms, all columns are brought to a common scale and every tap to a like weight. The
    scatter within classes is that of the images about their class plus that of the views about their image, shrunk
    towards a multiple of the identity (J. Friedman, JASA 84 (1989) 165-175). One image per class is enough.

    Args:
        taps: columns of each tap: the channel means, then the variances.
    """

    def fit(features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, _seed: int) -> Predict:
        bounds = [(part.start, (part.start + part.stop) // 2, part.stop) for part in taps]
        floors = [
            1e-3 * np.maximum(features[..., middle:end], 0).mean(axis=(0, 1)) + 1e-12 for _, middle, end in bounds
        ]
        weights = np.concatenate([np.full(end - start, (end - start) ** -0.5) for start, _, end in bounds])

        def transform(columns: np.ndarray) -> np.ndarray:
            parts = []
            for (start, middle, end), floor in zip(bounds, floors, strict=True):
                variances = np.log(np.maximum(columns[..., middle:end], 0) + floor)
                parts += [columns[..., start:middle], variances]
            return np.concatenate(parts, axis=-1)

        values = transform(features)
        moved = values[1:] - values[:1]
        # What the views move is noise, so that a column counts in units of its noise.
        noise = (moved**2).mean(axis=(0, 1)) if len(moved) else values[0].var(axis=0)
        mean, scale = values[0].mean(axis=0), weights / np.sqrt(noise + 1e-4 * np.median(noise) + 1e-12)
        present = np.unique(labels)
        clean, moved = (values[0] - mean) * scale, (moved * scale).reshape(-1, len(scale))
        centres = np.stack([clean[labels == label].mean(axis=0) for label in present])
        residuals = clean - centres[np.searchsorted(present, labels)]
        scatter = np.concatenate([
            residuals / np.sqrt(max(len(labels) - len(present), 1)), moved / np.sqrt(max(len(moved), 1))
        ])  # fmt: skip
        ridge = SHRINKAGE * max(float((scatter**2).sum()) / len(scale), 1e-12)
        # (ridge I + S'S)^-1 by Woodbury's identity: there are far fewer rows than columns.
        inner = np.linalg.solve(scatter @ scatter.T + ridge * np.eye(len(scatter)), scatter @ centres.T)
        directions = (centres - inner.T @ scatter) / ridge
        offsets = -0.5 * (directions * centres).sum(axis=1)

        def predict(columns: np.ndarray) -> np.ndarray:
            logits = np.full((len(columns), int(present.max()) + 1), -1e3, np.float32)
            logits[:, present] = ((transform(columns) - mean) * scale) @ directions.T + offsets
            return logits

        return predict

    return fit
