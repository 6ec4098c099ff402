"""The stages of the pipeline. One that dvc started ends when dvc ends, however dvc ends: no training goes on behind one's back."""

import os
import signal

from bula.processes import end_with_parent

# Who started this process, as dvc.yaml's commands and stages/train/launch.py tell it. It is told to no child, whose parent is another.
_parent = os.environ.pop("STAGE_PARENT", "")
# dvc names the stage to the command that it starts; an import by anything else changes nothing. The parent is dvc itself, since
# dvc.yaml's commands take the place of their shell.
if _parent or "DVC_STAGE" in os.environ:
    end_with_parent()
    if _parent and int(_parent) != os.getppid():
        # It ended while Python started, before the kernel was asked to tell.
        raise SystemExit("what started this stage is gone, and so the stage ends")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # accelerate's launcher (stages/train/launch.py) ignores Ctrl-C, and its child would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
