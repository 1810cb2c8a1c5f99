"""Stopwatches of the serving benchmark; functions at the top of a module, because other processes run them."""

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _common  # noqa: F401  puts src/ on the path
import numpy as np

from metal_defects.data.imaging import Preprocessor
from metal_defects.inference.bundle import Bundle
from metal_defects.inference.predictor import Predictor
from metal_defects.inference.runtime import Infer, open_graph


def measure_rate(infer: Infer, inputs: list[np.ndarray], seconds: float) -> float:
    """Images per second."""
    infer(inputs[0])
    done, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        for pixels in inputs:
            infer(pixels)
            done += len(pixels)
    return done / passed


def read_pixels(bundle: Bundle, files: list[Path]) -> np.ndarray:
    """uint8 (n, side, side, 3): ready for the graph of the bundle."""
    prepare = Preprocessor(**dict(bundle.card.input))
    return np.stack([prepare(path) for path in files])


def measure_bare_rate(file: Path, pixels: np.ndarray, seconds: float) -> float:
    """Images per second of a bare graph on ready pixels (64, side, side, 3): the fastest of three ways to call it.

    One image at a time on all cores, batches of 16 on all cores, and one image at a time per core in parallel.
    """
    cores = os.cpu_count() or 1
    wide, narrow = open_graph(file), open_graph(file, 1)
    single, batches = np.split(pixels, 64), np.split(pixels, 4)
    with ThreadPoolExecutor(cores) as pool:
        parallel = sum(pool.map(lambda _: measure_rate(narrow, single, seconds), range(cores)))
    return max(measure_rate(wide, single, seconds), measure_rate(wide, batches, seconds), parallel)


def median_seconds(call: Callable[[Any], Any], inputs: list[Any]) -> float:
    """Of one call, after ten that do not count."""
    for item in inputs[:10]:
        call(item)
    seconds = []
    for item in inputs:
        begin = time.perf_counter()
        call(item)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def time_predictor(bundle: Path, files: list[Path]) -> float:
    """Median seconds from file to answer."""
    predictor = Predictor.load(bundle)
    return median_seconds(predictor.predict, files)


def time_usual_way(model: Path, files: list[Path], side: int) -> float:
    """Median seconds from file to answer by Keras alone."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    network = keras.models.load_model(model, compile=False)

    def answer(file: Path) -> np.ndarray:
        image = keras.utils.load_img(file, target_size=(side, side))
        return network.predict(keras.utils.img_to_array(image)[None], verbose=0)

    return median_seconds(answer, files)
