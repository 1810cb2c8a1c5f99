"""What operators see: one JSON line per event, and Prometheus metrics."""

import json
import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

current_request_id: ContextVar[str | None] = ContextVar("current_request_id", default=None)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, message, request id, then whatever `extra={"fields": ...}` holds."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "message": record.getMessage(),
            "request_id": current_request_id.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None}, ensure_ascii=False)


def log_as_json() -> None:
    """Send this package's records, and warnings of the HTTP server, to standard output, one JSON object per line."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    for name, level in (("metal_defects", logging.INFO), ("uvicorn", logging.WARNING)):
        source = logging.getLogger(name)
        source.handlers = [handler]
        source.setLevel(level)
        source.propagate = False


class Metrics:
    """Counters of one application; a registry of its own, so that two can live in one process."""

    def __init__(self, waiting: Callable[[], float], memory: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "metal_defects_requests", "Calls answered.", ["method", "path", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "metal_defects_request_seconds",
            "From the first byte of a call to the last of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "metal_defects_images", "Images by label, or by the code of what is wrong with them.",
            ["outcome", "value"], registry=self.registry,
        )  # fmt: skip
        self.image_seconds = Histogram(
            "metal_defects_image_seconds", "Decoding and inference of one image.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.model = Gauge("metal_defects_model", "The model served.", ["name", "hash"], registry=self.registry)
        for name, text, read in (
            ("metal_defects_waiting_images", "Images that wait or are being worked on.", waiting),
            ("metal_defects_upload_bytes", "Bytes of uploads in memory.", memory),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)
