"""The stages of the pipeline. One that dvc started ends when dvc ends, however dvc ends: no training goes on behind one's back."""

import os
import signal

from bula.processes import end_with_parent

# dvc names the stage to the command that it starts; an import by anything else changes nothing. The parent is dvc itself, since
# dvc.yaml's commands take the place of their shell.
if "DVC_STAGE" in os.environ:
    end_with_parent()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # accelerate's launcher (stages/train/launch.py) ignores Ctrl-C, and its child would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
