"""Start training under `accelerate launch`, with one of the configurations of accelerate/.

This process becomes accelerate's launcher, and keeps what stages/__init__.py asked of the kernel: it ends when dvc ends.

python -m stages.train.launch accelerate/cpu.yaml
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def main(configuration: Annotated[Path, typer.Argument(help="Configuration of accelerate.")]) -> None:
    """Replace this process by the launcher."""
    if not configuration.exists():
        known = ", ".join(sorted(path.stem for path in configuration.parent.glob("*.yaml")))
        raise SystemExit(f"{configuration} does not exist; train.launch is one of {known}")
    if "OMP_NUM_THREADS" not in os.environ:
        # Else accelerate gives a process one thread for each physical core, and virtual machines often show one.
        import torch

        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    # Ctrl-C reaches every process of the terminal; the stage saves and ends, and the launcher waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Quiet: where the stage ended with a sentence, the launcher's own traceback would bury it.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(configuration)]
    os.execv(sys.executable, [*launcher, "--module", "stages.train"])


if __name__ == "__main__":
    typer.run(main)
