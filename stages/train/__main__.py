"""Start training under `accelerate launch`, with the configuration of accelerate/ that params.yaml names.

This process becomes accelerate's launcher and keeps its process id: it ends when dvc ends, and training
(stages/train/fit.py) ends when the launcher does.

    python -m stages.train
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from bula.errors import UserError, run_stage
from bula.params import load_params


def visible(settings: dict[str, Any]) -> dict[str, str]:
    """Return the environment that shows a process the GPUs which accelerate's settings mean.

    accelerate leaves all GPUs visible, and transformers uses those it sees, even where accelerate uses the CPU.
    """
    if settings.get("use_cpu"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    if settings.get("distributed_type", "NO") == "NO":
        return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    return {}


def find_configuration(name: str, folder: Path) -> Path:
    """Return accelerate's configuration of this name; UserError lists the names that exist."""
    file = folder / f"{name}.yaml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise UserError(
            file, "the file does not exist", f"train.launch in params.yaml is one of {known}"
        )
    return file


def main(
    folder: Annotated[Path, typer.Option(help="Folder of accelerate's configurations.")] = Path(
        "accelerate"
    ),
) -> None:
    """Replace this process by the launcher."""
    configuration = find_configuration(load_params().train.launch, folder)
    os.environ |= visible(YAML(typ="safe").load(configuration.read_text(encoding="utf-8")))
    if "OMP_NUM_THREADS" not in os.environ:
        # accelerate would take one thread for each physical core, and virtual machines often show one core.
        import torch

        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    os.environ["STAGE_PARENT"] = str(os.getpid())
    # Ctrl-C reaches every process of the terminal; training saves and ends, and the launcher waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Quiet, since the launcher's own traceback would bury the sentence with which training ended.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    options = ["--config_file", str(configuration), "--module", "stages.train.fit"]
    os.execv(sys.executable, [*launcher, *options])


if __name__ == "__main__":
    run_stage(main)
