"""The item boundary: whatever goes wrong with one video becomes that video's recorded failure.

This is the one place of the pipeline where any exception is caught. Enters: a piece of work on an item. Leaves: its
result, or a ``Failure`` with a code for machines and a sentence for people. Interrupts (``KeyboardInterrupt``,
``SystemExit``) are no failures of an item and pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tidegate.errors import TidegateError

__all__ = ["UNEXPECTED", "Failure", "attempt"]

UNEXPECTED = "unexpected_error"
"""Code of an exception that is no ``TidegateError``: a bug, not a bad video."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Failure:
    """Why an item failed."""

    code: str
    reason: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The failure that an exception means."""
        if isinstance(error, TidegateError):
            return cls(error.code, str(error) or type(error).__doc__ or type(error).__name__)
        return cls(UNEXPECTED, f"{type(error).__name__}: {error}")


def attempt(work: Callable[[], _Result]) -> _Result | Failure:
    """The result of the work, or why it failed."""
    try:
        return work()
    except Exception as error:
        return Failure.of(error)
