"""The stages of the pipeline. A stage that dvc started ends when dvc ends, however dvc ends."""

import os
import signal

from bula.processes import end_with_parent

# The parent's process id, as ./stage and stages/train/__main__.py write it; removed, since a child has another parent.
_parent = os.environ.pop("STAGE_PARENT", "")
# dvc names the stage to the command that it starts; an import by anything else changes nothing.
if _parent or "DVC_STAGE" in os.environ:
    end_with_parent()
    if _parent and int(_parent) != os.getppid():
        # dvc ended while Python started, before the kernel was asked to signal it.
        raise SystemExit("what started this stage is gone, and so the stage ends")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # accelerate's launcher (stages/train/__main__.py) ignores Ctrl-C, and its child would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
