"""The one door to the model: images of any form in, typed answers out. ONNX Runtime unless Keras is asked for."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.serving.bundle import Bundle, BundleError, load_bundle
from metal_defects.serving.cores import count_cores

Input = Path | str | bytes | Image.Image | np.ndarray
Runtime = Literal["onnx", "keras"]
Infer = Callable[[np.ndarray], dict[str, np.ndarray]]
Decoded = tuple[str | None, np.ndarray | ImageError, float]
BATCHES_AHEAD = 3
# What is asked of the graph; later graphs may know more.
OUTPUTS = ["probabilities"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        name: of the image, where it has one.
        label: the most probable class.
        confidence: its probability, in [0, 1].
        probabilities: of every class, in the order of the bundle.
        milliseconds: decoding plus inference; of a batch, this image's share.
        verdict, reason, distance: of the guard against unknown surfaces; None where the bundle has no thresholds.
    """

    name: str | None
    label: str
    confidence: float
    probabilities: dict[str, float]
    milliseconds: float
    verdict: str | None = None
    reason: str | None = None
    distance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, always with the same keys in the same order."""
        return asdict(self)


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
        infer: uint8 (N, side, side, 3) to the graph's outputs by name, among them "probabilities".
    """

    def __init__(self, bundle: Bundle, infer: Infer) -> None:
        self.bundle = bundle
        self._infer = infer
        self._preprocess = Preprocessor(bundle.image_size, bundle.card["input"]["resize"], bundle.limits)

    @classmethod
    def load(
        cls, folder: Path, variant: str | None = None, runtime: Runtime = "onnx", threads: int | None = None
    ) -> "Predictor":
        """Read a bundle and make it ready to answer.

        Args:
            folder: of the bundle.
            variant: "float32" or "int8"; the bundle's default where None. The keras runtime knows float32 alone.
            runtime: "onnx", or "keras" for the .h5 file that the bundle was made from.
            threads: that work on one batch; all cores where None.

        Raises:
            BundleError: the bundle is not usable, or lacks the variant.
        """
        bundle = load_bundle(folder)
        if runtime == "keras":
            if variant not in (None, "float32"):
                raise BundleError(f"The keras runtime has the variant float32 alone. Got '{variant}' instead.")
            infer = _load_keras(bundle)
        else:
            infer = open_graph(bundle.variant_file(variant or bundle.card["default"]), threads)
        _try_out(bundle, infer)
        return cls(bundle, infer)

    def predict(self, source: Input, name: str | None = None) -> Prediction:
        """The answer for one image.

        Raises:
            ImageError: the image cannot be used; says why.
        """
        start = time.perf_counter()
        pixels = self._pixels(source)
        outputs = self._infer(pixels[None])
        return self._answer(name or _name_of(source), outputs, 0, time.perf_counter() - start)

    def predict_many(
        self, sources: Iterable[Input | tuple[str, Input]], batch_size: int = 16
    ) -> Iterator[Prediction | Failure]:
        """One answer or failure per source, in their order, each as soon as its batch is done.

        The next batches are decoded in threads meanwhile; no more of them than BATCHES_AHEAD are held.

        Args:
            sources: images, or pairs of a name and an image.
            batch_size: images per pass through the network.
        """
        remaining = iter(sources)
        with ThreadPoolExecutor(count_cores(), thread_name_prefix="decode") as pool:
            ahead: deque[list[Future[Decoded]]] = deque()

            def decode_next() -> None:
                batch = [pool.submit(self._decode, source) for source in islice(remaining, batch_size)]
                if batch:
                    ahead.append(batch)

            for _ in range(BATCHES_AHEAD):
                decode_next()
            while ahead:
                batch = [future.result() for future in ahead.popleft()]
                decode_next()
                yield from self._answer_batch(batch)

    def _decode(self, source: Input | tuple[str, Input]) -> Decoded:
        start = time.perf_counter()
        name, image = source if isinstance(source, tuple) else (_name_of(source), source)
        try:
            pixels: np.ndarray | ImageError = self._pixels(image)
        except ImageError as error:
            pixels = error
        return name, pixels, time.perf_counter() - start

    def _answer_batch(self, batch: list[Decoded]) -> Iterator[Prediction | Failure]:
        good = [pixels for _, pixels, _ in batch if isinstance(pixels, np.ndarray)]
        start = time.perf_counter()
        outputs = self._infer(np.stack(good)) if good else {}
        share = (time.perf_counter() - start) / max(1, len(good))
        row = 0
        for name, pixels, seconds in batch:
            if isinstance(pixels, ImageError):
                yield Failure(name, pixels.reason, str(pixels))
            else:
                yield self._answer(name, outputs, row, seconds + share)
                row += 1

    def _pixels(self, source: Input) -> np.ndarray:
        return self._preprocess(Path(source) if isinstance(source, str) else source)

    def _answer(self, name: str | None, outputs: dict[str, np.ndarray], row: int, seconds: float) -> Prediction:
        shares = outputs["probabilities"][row]
        best = int(shares.argmax())
        rounded = [round(share, 6) for share in shares.tolist()]
        return Prediction(
            name=name,
            label=self.bundle.classes[best],
            confidence=rounded[best],
            probabilities=dict(zip(self.bundle.classes, rounded, strict=True)),
            milliseconds=round(1000 * seconds, 3),
        )


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

    def infer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(OUTPUTS, session.run(OUTPUTS, {"pixels": pixels}), strict=True))

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
        import keras
    except ModuleNotFoundError as error:
        raise BundleError(
            "The keras runtime needs TensorFlow and Keras: pip install -r requirements.txt, or use the onnx runtime."
        ) from error
    model = keras.models.load_model(bundle.keras_file(), compile=False)

    def infer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {"probabilities": np.asarray(model(pixels, training=False))}

    return infer
