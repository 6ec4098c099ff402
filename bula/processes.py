"""Terminate a child process when its parent exits."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
# The library is loaded at import, because a child must do little between fork and exec.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Ask the kernel to send SIGTERM when the parent exits.

    The call is prctl(2), which only Linux has; other systems do nothing here.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
