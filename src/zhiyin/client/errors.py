"""Refusals of the service, as an error."""

from __future__ import annotations

from zhiyin.core.errors import ZhiyinError

# Status codes after which the same request is sent again at once, and those after which the service may recover later.
RETRYABLE_STATUS_CODES = frozenset({429, 502, 503, 504})
RECOVERABLE_STATUS_CODES = RETRYABLE_STATUS_CODES | {408, 425} | frozenset(range(500, 600))


class ApiError(ZhiyinError):
    """The service refused a request, or did not answer.

    Parameters
    ----------
    status: status code of the response; 0 where none came.
    message, remedy: in the words of the service.
    field: the part of the request that is wrong, where the service names it.
    retry_after: seconds that the service asks to wait for; 0 where it does not say.
    """

    def __init__(
        self, status: int, message: str, remedy: str = "", field: str | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message, column=field, remedy=remedy or None)
        self.status, self.field, self.retry_after = status, field, retry_after

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later: no response, or the service is overloaded, full or failing."""
        return self.status == 0 or self.status in RECOVERABLE_STATUS_CODES
