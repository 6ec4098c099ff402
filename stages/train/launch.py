"""Start training under `accelerate launch`, with one of the configurations of accelerate/.

This process becomes accelerate's launcher, and keeps what stages/__init__.py asked of the kernel: it ends when dvc ends, and
training when the launcher does.

python -m stages.train.launch accelerate/cpu.yaml
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML


def visible(settings: dict[str, Any]) -> dict[str, str]:
    """What a single process, or one on the CPU, must see of the machine's GPUs, by accelerate's settings.

    accelerate leaves them all in sight, and transformers takes what it sees, also where accelerate goes to the CPU.
    """
    if settings.get("use_cpu"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    if settings.get("distributed_type", "NO") == "NO":
        return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    return {}


def main(configuration: Annotated[Path, typer.Argument(help="Configuration of accelerate.")]) -> None:
    """Replace this process by the launcher."""
    if not configuration.exists():
        known = ", ".join(sorted(path.stem for path in configuration.parent.glob("*.yaml")))
        raise SystemExit(f"{configuration} does not exist; train.launch is one of {known}")
    os.environ |= visible(YAML(typ="safe").load(configuration.read_text(encoding="utf-8")))
    if "OMP_NUM_THREADS" not in os.environ:
        # Else accelerate gives a process one thread for each physical core, and virtual machines often show one.
        import torch

        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    os.environ["STAGE_PARENT"] = str(os.getpid())
    # Ctrl-C reaches every process of the terminal; the stage saves and ends, and the launcher waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Quiet: where the stage ended with a sentence, the launcher's own traceback would bury it.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(configuration)]
    os.execv(sys.executable, [*launcher, "--module", "stages.train"])


if __name__ == "__main__":
    typer.run(main)
