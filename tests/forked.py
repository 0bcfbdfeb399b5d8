"""Functions in a process of their own that shares what was imported: for what kills a process, or leaves traces in it.

Knows nothing of what is run.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable


def start_forked(function: Callable[[], object]) -> int:
    """The process id of a child that runs ``function``; much quicker than importing torch anew."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def wait_for(pid: int) -> int:
    """The child's exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_a_child(test: Callable[..., None]) -> Callable[..., None]:
    """A test whose body runs in a child."""

    @functools.wraps(test)
    def run(*args, **kwargs) -> None:
        assert wait_for(start_forked(functools.partial(test, *args, **kwargs))) == 0

    return run
