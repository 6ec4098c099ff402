"""Start training under `accelerate launch`.

params.yaml names one of the configurations in accelerate/. This process becomes accelerate's
launcher and keeps its process id, so that the launcher exits when dvc exits. Training
(stages/train/fit.py) exits when the launcher does.

    python -m stages.train
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bula.errors import run_stage
from bula.launch import find_configuration, read_configuration
from bula.params import load_params

ConfigurationFolder = Annotated[Path, typer.Option(help="Folder of accelerate's configurations.")]


def gpu_environment(settings: dict[str, Any]) -> dict[str, str]:
    """Return the variables that show only the GPUs of accelerate's settings.

    accelerate leaves all GPUs visible, and transformers uses every GPU it sees, even where
    accelerate uses the CPU.
    """
    if settings.get("use_cpu"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    if settings.get("distributed_type", "NO") == "NO":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        return {"CUDA_VISIBLE_DEVICES": visible.split(",")[0]}
    return {}


def set_thread_count() -> None:
    """Set OMP_NUM_THREADS to torch's own count, unless the user has set it.

    accelerate takes one thread per physical core, and virtual machines often report one core.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


def launch_command(configuration: Path) -> list[str]:
    """Return the command of accelerate's launcher.

    The launcher is quiet, because its traceback would follow training's own error message.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    options = ["--config_file", str(configuration), "--module", "stages.train.fit"]
    return [*launcher, *options]


def main(folder: ConfigurationFolder = Path("accelerate")) -> None:
    """Replace this process with accelerate's launcher."""
    params = load_params()
    configuration = find_configuration(params.train.launch, folder)
    settings = read_configuration(configuration, params.device)
    os.environ.update(gpu_environment(settings))
    set_thread_count()
    os.environ["STAGE_PARENT"] = str(os.getpid())
    # Ctrl-C reaches every process of the terminal; the launcher ignores it and waits for training.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.execv(sys.executable, launch_command(configuration))


if __name__ == "__main__":
    run_stage(main)
