"""Training under `accelerate launch`: one process, two processes, missing requirements."""

import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.params import load_params
from stages.train import __main__ as start
from stages.train import fit as train
from stages.train import trainer
from tests.conftest import run


def launch(folder: Path, configuration: str) -> dict[str, Any]:
    """Train in `folder` as dvc does.

    Return the losses, the adapter and the printed output.
    """
    edit_params(folder / "params.yaml", lambda params: params["train"].update(launch=configuration))
    result = run([sys.executable, "-m", "stages.train"], folder)
    assert result.returncode == 0, result.stdout + result.stderr
    points = json.loads((folder / "plots/train/loss.json").read_text(encoding="utf-8"))
    return {
        "losses": [point["loss_nats"] for point in points],
        "adapter": load_file(folder / "models/adapter/adapter_model.safetensors"),
        "output": result.stdout,
    }


def run_on_cpu(name: str) -> str:
    """Write a CPU copy of a GPU configuration, with a free port.

    Return the name of the copy.
    """
    text = (ROOT / f"accelerate/{name}.yaml").read_text(encoding="utf-8")
    assert "use_cpu: false\n" in text
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = text.replace("use_cpu: false\n", f"use_cpu: true\nmain_process_port: {port}\n")
    Path(f"accelerate/{name}_on_cpu.yaml").write_text(text, encoding="utf-8")
    return f"{name}_on_cpu"


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def train_five_steps(params: dict[str, Any]) -> None:
    """Set five steps of four rows, in float32 and without dropout."""
    params["dtype"] = "float32"
    params["train"].update(
        batch_size=2,
        gradient_accumulation=2,
        max_steps=5,
        eval_steps=5,
        learning_rate=0.01,
    )
    params["train"]["lora"]["dropout"] = 0.0


def accumulate_nothing(params: dict[str, Any]) -> None:
    """Take each step after one batch."""
    params["train"]["gradient_accumulation"] = 1


def test_two_processes_train_the_adapter_of_one_process_with_ddp_and_with_fsdp(
    ready: Path,
) -> None:
    shutil.copytree(ROOT / "accelerate", ready / "accelerate")
    edit_params(ready / "params.yaml", train_five_steps)
    one = launch(ready, "cpu")
    # 16 rows make four steps per epoch; the number of dev rows is no multiple of two processes.
    assert len(one["losses"]) == 6
    assert one["losses"][-2] < one["losses"][0]
    edit_params(ready / "params.yaml", accumulate_nothing)
    for name in ("ddp", "fsdp"):
        two = launch(ready, run_on_cpu(name))
        assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
        assert largest_difference(one["adapter"], two["adapter"]) < 1e-5
    assert not list((ready / ".bula/checkpoints").iterdir())


# Only the second process receives the request to stop, and both must stop.
STOPPED = """
from bula.errors import run_stage
from bula.save_and_stop import SaveAndStop
from stages.train.fit import main

original = SaveAndStop.on_step_end

def on_step_end(self, args, state, control, **kwargs):
    if args.process_index == 1 and state.global_step == 5:
        self.stop_requested = True
    original(self, args, state, control, **kwargs)

SaveAndStop.on_step_end = on_step_end
run_stage(main)
"""


def stop_in_step_5(folder: Path) -> str:
    """Run two processes until the second one stops; return the errors."""
    (folder / "stopped.py").write_text(STOPPED, encoding="utf-8")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    options = ["--config_file", f"accelerate/{run_on_cpu('ddp')}.yaml", "stopped.py"]
    return run([*launcher, *options], folder, CUDA_VISIBLE_DEVICES="").stderr


def test_two_processes_stopped_within_an_epoch_resume_to_the_same_adapter(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # accelerate and stages/train/__main__.py would choose differently, which changes the rounding.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(ROOT / "accelerate", ready / "accelerate")

    def edit(params: dict[str, Any]) -> None:
        params["train"].update(
            batch_size=2,
            gradient_accumulation=1,
            max_steps=7,
            eval_steps=7,
            learning_rate=0.01,
        )
        params["train"]["lora"]["dropout"] = 0.1

    # 16 rows, four per step: step 5 is the first of the second epoch, whose order differs.
    edit_params(ready / "params.yaml", edit)
    uninterrupted = launch(ready, run_on_cpu("ddp"))
    assert "train: stopped; run it again to resume from step 5" in stop_in_step_5(ready)
    resumed = launch(ready, run_on_cpu("ddp"))
    assert "train: resuming from step 5\n" in resumed["output"]
    assert resumed["losses"] == uninterrupted["losses"]
    assert largest_difference(resumed["adapter"], uninterrupted["adapter"]) == 0


def start_arguments(configuration: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the start of the stage and return the launcher's arguments.

    os.environ is a copy afterwards, with the changes of the start.
    """
    edit_params(Path("params.yaml"), lambda params: params["train"].update(launch=configuration))
    device = "cpu" if configuration == "cpu" else "cuda"
    edit_params(Path("params.yaml"), lambda params: params.update(device=device))
    found: list[str] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "execv", lambda program, command: found.extend(command))
    start.main(ROOT / "accelerate")
    return found


@pytest.mark.parametrize(
    ("configuration", "named", "seen"),
    [
        ("cpu", None, ""),
        ("cpu", "1", ""),
        ("gpu", None, "0"),
        ("gpu", "3", "3"),
        ("gpu", "2,3", "2"),
        ("ddp", None, None),
        ("ddp", "2,3", "2,3"),
        ("fsdp", None, None),
    ],
)
def test_training_sees_only_the_gpus_of_its_configuration(
    configuration: str,
    named: str | None,
    seen: str | None,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    arguments = start_arguments(configuration, monkeypatch)
    file = arguments[arguments.index("--config_file") + 1]
    assert file == str(ROOT / f"accelerate/{configuration}.yaml")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen
    # Training exits with the launcher, which has this process's id.
    assert os.environ["STAGE_PARENT"] == str(os.getpid())


CONFIGURATIONS = {"cpu", "gpu", "ddp", "fsdp"}


def test_every_configuration_that_a_profile_names_exists() -> None:
    files = (ROOT / "accelerate").glob("*.yaml")
    assert {path.stem for path in files} == CONFIGURATIONS
    profiles = (ROOT / "profiles").glob("*.yaml")
    assert {load_params(path).train.launch for path in profiles} <= CONFIGURATIONS


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_configurations_leave_the_precision_to_params(name: str) -> None:
    text = (ROOT / f"accelerate/{name}.yaml").read_text(encoding="utf-8")
    assert YAML(typ="safe").load(text)["mixed_precision"] == "no"


def train_with(configuration: str, workspace: Path) -> str:
    """Run the stage, which must fail, and return its errors."""
    if not (workspace / "accelerate").exists():
        shutil.copytree(ROOT / "accelerate", workspace / "accelerate")
    edit_params(workspace / "params.yaml", lambda p: p["train"].update(launch=configuration))
    result = run([sys.executable, "-m", "stages.train"], workspace)
    assert result.returncode == 1
    return result.stderr


def test_an_unknown_configuration_is_reported_with_the_known_ones(workspace: Path) -> None:
    known = "Set train.launch in params.yaml to one of cpu, ddp, fsdp, gpu."
    errors = train_with("tpu", workspace)
    assert errors.strip() == f"accelerate/tpu.yaml: the file does not exist. {known}"


def test_an_error_of_training_is_not_buried_under_the_launchers_traceback(
    workspace: Path,
) -> None:
    errors = train_with("cpu", workspace)
    assert errors.startswith("models/base")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"attention": "flash_attention_2"},
            "train.attention is flash_attention_2, which needs a CUDA GPU",
        ),
        ({"liger": True, "kernels": "trl"}, "train.liger is true, which needs a CUDA GPU"),
        ({"activation_offload": True}, "train.activation_offload is true, which needs a CUDA GPU"),
        (
            {"base_weights": "nf4"},
            "train.base_weights is nf4, which needs the package bitsandbytes",
        ),
        (
            {"base_weights": "int8"},
            "train.base_weights is int8, which needs the package bitsandbytes",
        ),
    ],
)
def test_an_option_that_this_machine_cannot_run_is_refused(
    change: dict[str, Any], message: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    edit_params(ready / "params.yaml", lambda p: p["train"].update(change))
    with pytest.raises(UserError, match=message):
        train.main()
    assert not (ready / "models/adapter").exists()


def test_a_tracker_that_is_not_installed_is_refused(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    edit_params(ready / "params.yaml", lambda p: p["compute"].update(tracker="wandb"))
    with pytest.raises(UserError, match=r"compute\.tracker is wandb, which is not installed"):
        train.main()


def test_one_process_that_sees_several_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match=r"(?i)set train\.launch to ddp"):
        trainer.check_requirements(load_params(ROOT / "profiles/smollm2-135m.yaml"))
