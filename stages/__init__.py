"""The stages of the pipeline. One that dvc started ends when dvc ends, however dvc ends: no training goes on behind one's back."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent is gone (prctl(2); Linux alone has it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


# dvc names the stage to the command that it starts; an import by anything else changes nothing.
if "DVC_STAGE" in os.environ:
    end_with_parent()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # accelerate's launcher (stages/train/launch.py) ignores Ctrl-C, and its child would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
