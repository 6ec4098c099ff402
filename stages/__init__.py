"""Run the stages of the pipeline; a stage exits when dvc exits."""

import os
import signal

from bula.processes import end_with_parent

# ./stage and stages/train/__main__.py write the parent's id; children must not inherit it.
_parent = os.environ.pop("STAGE_PARENT", "")
# dvc sets DVC_STAGE for the commands that it starts; an import by another program changes nothing.
if _parent or "DVC_STAGE" in os.environ:
    end_with_parent()
    if _parent and int(_parent) != os.getppid():
        # The parent exited while Python started, before the kernel could be asked for a signal.
        raise SystemExit("the parent process of this stage has exited, so the stage exits too")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # The launcher (stages/train/__main__.py) ignores Ctrl-C, and its child inherits this.
        signal.signal(signal.SIGINT, signal.default_int_handler)
