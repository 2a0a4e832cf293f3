"""What the service refuses, as an error."""

from __future__ import annotations

from zhiyin.core.errors import ZhiyinError

# Answers that are worth another try at once; and those after which the service may recover, given time.
AGAIN = frozenset({429, 502, 503, 504})
RECOVERS = AGAIN | {408, 425} | frozenset(range(500, 600))


class ApiError(ZhiyinError):
    """The service said no, or nothing.

    Parameters
    ----------
    status: of the answer; 0 where none came.
    message, remedy: in the words of the service.
    field: the part of the request that is wrong, where the service names it.
    after: seconds that the service asks to wait for; 0: it does not say.
    """

    def __init__(
        self, status: int, message: str, remedy: str = "", field: str | None = None, after: float = 0.0
    ) -> None:
        super().__init__(message, column=field, remedy=remedy or None)
        self.status, self.field, self.after = status, field, after

    @property
    def worth_another_try(self) -> bool:
        """Whether the same request may succeed later: nobody answered, or the service is busy, full or broken."""
        return self.status == 0 or self.status in RECOVERS
