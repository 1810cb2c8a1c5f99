"""The one door to the model: images of any form in, typed answers out. ONNX Runtime unless Keras is asked for."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.inference.boxes import Box, find_boxes
from metal_defects.inference.bundle import Bundle, BundleError, load_bundle
from metal_defects.inference.verdict import decide
from metal_defects.log import logger
from metal_defects.system import count_cores

Input = Path | str | bytes | Image.Image | np.ndarray
Runtime = Literal["onnx", "keras"]
Infer = Callable[[np.ndarray], dict[str, np.ndarray]]
OUTPUTS = ("probabilities", "distance", "heat_map")
WAITING_PER_CORE = 4


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        name: of the image, where it has one.
        label: the most probable class.
        confidence: its probability, in [0, 1].
        probabilities: of every class, in the order of the bundle.
        milliseconds: from the source to the answer.
        verdict: "accept", "review" or "unknown"; like all below None where the bundle was not evaluated.
        reason: of the verdict, in words.
        distance: from the training images; 1 is the limit of what the model knows.
        prediction_set: the classes that are possible, the most probable first.
        boxes: where the defect is.
    """

    name: str | None
    label: str
    confidence: float
    probabilities: dict[str, float]
    milliseconds: float
    verdict: str | None = None
    reason: str | None = None
    distance: float | None = None
    prediction_set: tuple[str, ...] | None = None
    boxes: tuple[Box, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, always with the same keys in the same order; boxes as shares of the image's sides."""
        values = dict(vars(self))
        if self.prediction_set is not None:
            values["prediction_set"] = list(self.prediction_set)
        if self.boxes is not None:
            values["boxes"] = [box.to_dict() for box in self.boxes]
        return values


@dataclass(frozen=True)
class Failure:
    """Why one image has no answer.

    Attributes:
        name: of the image, where it has one.
        code: short and stable, for programs: see `ImageError.reason`.
        message: one sentence, for people.
    """

    name: str | None
    code: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "error": {"code": self.code, "message": self.message}}


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
        self._preprocess = Preprocessor(bundle.image_size, bundle.card["input"]["resize"], bundle.limits)
        _try_out(bundle, self._infer)

    @classmethod
    def load(
        cls, folder: Path, variant: str | None = None, runtime: Runtime = "onnx", threads: int | None = None
    ) -> "Predictor":
        """Read a bundle and make it ready to answer.

        Args:
            folder: of the bundle.
            variant: "float32" or "int8"; the bundle's default where None. The keras runtime knows float32 alone.
            runtime: "onnx", or "keras" for the .h5 file that the bundle was made from.
            threads: that work on one image; all cores where None.

        Raises:
            BundleError: the bundle is not usable, or lacks the variant.
        """
        bundle = load_bundle(folder)
        if runtime == "keras":
            if variant not in (None, "float32"):
                raise BundleError(f"The keras runtime has the variant float32 alone. Got '{variant}' instead.")
            infer = _load_keras(bundle)
            return cls(bundle, lambda _: infer, threads)
        path = bundle.variant_file(variant or bundle.card["default"])
        fault = bundle.card["variants"][variant].get("fault") if variant else None
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
            The answer, and a heat map, float32 (rows, columns) in [0, 1]; None where the bundle has no locator.

        Raises:
            ImageError: the image cannot be used; says why.
        """
        prediction, outputs = self._predict(self._infer, source, name)
        heat_map = outputs.get("heat_map")
        return prediction, None if heat_map is None else heat_map[0]

    def predict_many(self, sources: Iterable[Input | tuple[str, Input]]) -> Iterator[Prediction | Failure]:
        """One answer or failure per source, in their order, each as soon as it is there.

        Every core decodes and answers images of its own, which is faster than all cores on one batch; no more than
        WAITING_PER_CORE images per core are held.

        Args:
            sources: images, or pairs of a name and an image.
        """
        remaining, cores = iter(sources), count_cores()
        # One thread more than cores: while one waits for the interpreter, another computes.
        with ThreadPoolExecutor(cores + 1, thread_name_prefix="predict") as pool:
            waiting: deque[Future[Prediction | Failure]] = deque()
            waiting.extend(pool.submit(self._try, source) for source in islice(remaining, WAITING_PER_CORE * cores))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(self._try, source) for source in islice(remaining, 1))
                yield result

    @cached_property
    def _infer_alone(self) -> Infer:
        """For calls that share the cores with others."""
        return self._infer if self._threads == 1 else self._open_runtime(1)

    def _try(self, source: Input | tuple[str, Input]) -> Prediction | Failure:
        name, image = source if isinstance(source, tuple) else (_name_of(source), source)
        try:
            return self._predict(self._infer_alone, image, name)[0]
        except ImageError as error:
            return Failure(name, error.reason, str(error))

    def _predict(self, infer: Infer, source: Input, name: str | None) -> tuple[Prediction, dict[str, np.ndarray]]:
        start = time.perf_counter()
        pixels = self._preprocess(Path(source) if isinstance(source, str) else source)
        outputs = infer(pixels[None])
        classes, shares = self.bundle.classes, outputs["probabilities"][0]
        rounded = [round(share, 6) for share in shares.tolist()]
        best = int(shares.argmax())
        trust = self._judge(outputs)
        milliseconds = round(1000 * (time.perf_counter() - start), 3)
        named = dict(zip(classes, rounded, strict=True))
        prediction = Prediction(name or _name_of(source), classes[best], rounded[best], named, milliseconds, **trust)
        return prediction, outputs

    def _judge(self, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """The fields of the answer that rest on the evaluation: verdict, distance, possible classes, boxes."""
        card, found = self.bundle.card, {}
        rules, locator = card.get("verdict_rules"), card.get("locator")
        if rules:
            distance = float(outputs["distance"][0]) if "distance" in outputs else None
            verdict = decide(outputs["probabilities"][0], distance, self.bundle.classes, rules)
            found = {
                "verdict": verdict.verdict,
                "reason": verdict.reason,
                "distance": None if distance is None else round(distance, 4),
                "prediction_set": verdict.prediction_set,
            }
        # A map that learned from labels alone shows the place, not the extent.
        if locator and locator["kind"] == "boxes":
            found["boxes"] = find_boxes(outputs["heat_map"][0], locator["box_threshold"])
        return found


def _name_of(source: Input) -> str | None:
    return str(source) if isinstance(source, Path | str) else None


def open_graph(path: Path, threads: int | None = None) -> Infer:
    """A function that runs an ONNX graph; safe to call from several threads.

    Raises:
        BundleError: ONNX Runtime cannot read it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or count_cores()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no base class
        raise BundleError(f"ONNX Runtime cannot read the graph; export it again. Got {path}: {error}") from error

    known = [output.name for output in session.get_outputs() if output.name in OUTPUTS]

    def infer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(known, session.run(known, {"pixels": pixels}), strict=True))

    return infer


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


def _load_keras(bundle: Bundle) -> Infer:
    try:
        import keras  # noqa: F401

        from metal_defects.trust.answer import call_by_name, load_answer_model
    except ModuleNotFoundError as error:
        raise BundleError(
            "The keras runtime needs TensorFlow and Keras: pip install -r requirements.txt, or use the onnx runtime."
        ) from error
    return call_by_name(*load_answer_model(bundle.keras_artifacts()))
