"""What the user is told: errors that are theirs to mend, and warnings that need saying only once.

An error is one sentence: what, what we got, and what would work. Knows nothing of where it is shown; the command line
prints it and exits with 2.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from functools import cache


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one sentence for them, without a traceback."""


class MissingExtraError(InputError):
    """An optional dependency is not installed; the message holds the ``pip install`` line."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: run  pip install 'paumer[{extra}]'")


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The tail of an error message: the near match if there is one, else every option."""
    options = list(options)
    if near := difflib.get_close_matches(word, options, n=1, cutoff=0.6):
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(options)}"


@cache
def warn_once(log: logging.Logger, message: str) -> None:
    """Warns of what holds for every call of a process, such as a slower way that was taken."""
    log.warning(message)
