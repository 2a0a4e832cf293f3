"""What the service refuses, as an error."""

from __future__ import annotations

from zhiyin.core.errors import ZhiyinError

# Answers that are worth another try.
AGAIN = frozenset({429, 502, 503, 504})


class ApiError(ZhiyinError):
    """The service said no, or nothing.

    Parameters
    ----------
    status: of the answer; 0 where none came.
    message, remedy: in the words of the service.
    field: the part of the request that is wrong, where the service names it.
    """

    def __init__(self, status: int, message: str, remedy: str = "", field: str | None = None) -> None:
        super().__init__(message, column=field, remedy=remedy or None)
        self.status, self.field = status, field

    @property
    def worth_another_try(self) -> bool:
        """Whether the same request may succeed later: nobody answered, or the service is busy."""
        return self.status == 0 or self.status in AGAIN
