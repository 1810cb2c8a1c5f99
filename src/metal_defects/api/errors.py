"""Why a call as a whole is not answered, and what HTTP says about it."""

from collections.abc import Sequence
from typing import Any

from metal_defects.inference.answer import Failure

INTERNAL = "internal_error"
_STATUS = {
    "too_large": 413, "too_many_pixels": 413,
    "not_an_image": 415, "format": 415, "mode": 415,
    INTERNAL: 500,
}  # fmt: skip


class CallError(Exception):
    """A call that gets no predictions.

    Attributes:
        status: of the HTTP response.
        code: short and stable, for programs.
        message: one sentence, for people.
        retry_after: seconds after which the same call may succeed; None where it never will.
        failures: what is wrong with each file, where the files were looked at.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        failures: Sequence[Failure] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.failures = failures

    def headers(self) -> dict[str, str]:
        """Headers of the response beside its type and length."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self, request_id: str) -> dict[str, Any]:
        """JSON values of the response."""
        body: dict[str, Any] = {"request_id": request_id, "error": {"code": self.code, "message": self.message}}
        return body | ({"results": [failure.to_dict() for failure in self.failures]} if self.failures else {})


def refuse_all(failures: Sequence[Failure]) -> CallError:
    """For a call without one usable file: the status that all files share, else 422."""
    statuses = {_STATUS.get(failure.code, 422) for failure in failures}
    status = statuses.pop() if len(statuses) == 1 else 422
    if len(failures) == 1:
        return CallError(status, failures[0].code, failures[0].message, failures=failures)
    message = f"None of the {len(failures)} files could be classified; the results say why."
    return CallError(status, "no_usable_file", message, failures=failures)
