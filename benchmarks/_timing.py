"""Stopwatches of the serving benchmark; functions at the top of a module, because other processes run them."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common  # noqa: F401  puts src/ on the path
import numpy as np

from metal_defects.inference.predictor import Predictor
from metal_defects.inference.runtime import Infer


def measure_rate(infer: Infer, inputs: list[np.ndarray], seconds: float) -> float:
    """Images per second."""
    infer(inputs[0])
    done, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        for pixels in inputs:
            infer(pixels)
            done += len(pixels)
    return done / passed


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
