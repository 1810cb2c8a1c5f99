"""The one door to the model: images of any form in, typed answers out."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from metal_defects.data.geometry import Frame
from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.errors import BundleError
from metal_defects.inference.answer import Failure, Outcome, Prediction, judge_outputs
from metal_defects.inference.bundle import Bundle, load_bundle
from metal_defects.inference.runtime import Infer, open_graph
from metal_defects.log import logger
from metal_defects.system import count_cores, map_ordered

Input = Path | str | bytes | Image.Image | np.ndarray


class Predictor:
    """Answers for images, from one bundle; safe to share between threads.

    Args:
        bundle: that was loaded.
        open_runtime: makes a function from uint8 (N, side, side, 3) to the graph's outputs by name, among them
            "probabilities"; it is given the number of threads that work on one call.
        threads: for `predict`; all cores where None.
    """

    def __init__(self, bundle: Bundle, open_runtime: Callable[[int], Infer], threads: int | None = None) -> None:
        self.bundle = bundle
        self._open_runtime = open_runtime
        self._threads = threads or count_cores()
        self._infer = open_runtime(self._threads)
        self._preprocess = Preprocessor(**dict(bundle.card.input))
        _try_out(bundle, self._infer)

    @classmethod
    def load(cls, folder: Path, variant: str | None = None, threads: int | None = None) -> "Predictor":
        """Read a bundle and make it ready to answer by ONNX Runtime.

        Args:
            folder: of the bundle.
            variant: "float32" or "int8"; the bundle's default where None.
            threads: that work on one image; all cores where None.

        Raises:
            BundleError: the bundle is not usable, or lacks the variant.
        """
        bundle = load_bundle(folder)
        path = bundle.variant_file(variant or bundle.card.default)
        fault = bundle.card.variants[variant].fault if variant else None
        if fault:
            logger.warning("The variant %s is no full substitute: %s", variant, fault)
        return cls(bundle, lambda count: open_graph(path, count), threads)

    def predict(self, source: Input, name: str | None = None) -> Prediction:
        """The answer for one image.

        Raises:
            ImageError: the image cannot be used; says why.
        """
        return self._predict(self._infer, source, name)[0]

    def explain(self, source: Input, name: str | None = None) -> tuple[Prediction, np.ndarray | None]:
        """The answer, and how likely each part of the image shows a defect.

        Returns:
            The answer, and a heat map of the whole image, float32 (rows, columns) in [0, 1]; None where the bundle has
            no locator.

        Raises:
            ImageError: the image cannot be used; says why.
        """
        prediction, outputs, frame = self._predict(self._infer, source, name)
        heat_map = outputs.get("heat_map")
        return prediction, None if heat_map is None else frame.crop(heat_map[0])

    def predict_many(self, sources: Iterable[Input | tuple[str, Input]]) -> Iterator[Outcome]:
        """One answer or failure per source, in their order, each as soon as it is there.

        Every core decodes and answers images of its own, which is faster than all cores on one batch; few images are
        held at a time.

        Args:
            sources: images, or pairs of a name and an image.
        """
        # One thread more than cores: while one waits for the interpreter, another computes.
        return map_ordered(self._try, sources, count_cores() + 1)

    @cached_property
    def _infer_alone(self) -> Infer:
        """For calls that share the cores with others."""
        return self._infer if self._threads == 1 else self._open_runtime(1)

    def _try(self, source: Input | tuple[str, Input]) -> Outcome:
        name, image = source if isinstance(source, tuple) else (_name_of(source), source)
        try:
            return self._predict(self._infer_alone, image, name)[0]
        except ImageError as error:
            return Failure.of(name, error.reason, str(error))

    def _predict(
        self, infer: Infer, source: Input, name: str | None
    ) -> tuple[Prediction, dict[str, np.ndarray], Frame]:
        """The answer, the graph's outputs, and where the image lies in what the graph saw."""
        start = time.perf_counter()
        pixels, frame = self._preprocess.place(Path(source) if isinstance(source, str) else source)
        outputs = infer(pixels[None])
        classes, shares = self.bundle.classes, outputs["probabilities"][0]
        rounded = [round(share, 6) for share in shares.tolist()]
        best = int(shares.argmax())
        trust = judge_outputs(outputs, self.bundle.card, frame)
        # Unchecked: the graph of a damaged model may answer NaN, which its verdict speaks about and no range admits.
        prediction = Prediction.model_construct(
            name=name or _name_of(source),
            label=classes[best],
            confidence=rounded[best],
            probabilities=dict(zip(classes, rounded, strict=True)),
            milliseconds=round(1000 * (time.perf_counter() - start), 3),
            **trust,
        )
        return prediction, outputs, frame


def _name_of(source: Input) -> str | None:
    return str(source) if isinstance(source, Path | str) else None


def _try_out(bundle: Bundle, infer: Infer) -> None:
    """Answer once, which warms the runtime up and shows whether the graph is what bundle.json describes."""
    side = bundle.image_size
    try:
        shape = infer(np.zeros((1, side, side, 3), np.uint8))["probabilities"].shape
    except Exception as error:  # the runtime's own exceptions share no base class
        raise BundleError(
            f"The graph does not take uint8 pixels of {side} px; export it again. Got {bundle.folder}: {error}"
        ) from error
    if shape != (1, len(bundle.classes)):
        raise BundleError(
            f"The graph must answer with {len(bundle.classes)} probabilities; export it again. "
            f"Got {shape} from {bundle.folder}."
        )
