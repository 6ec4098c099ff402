"""train under `accelerate launch`: one process, two processes, and what a machine lacks."""

import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
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
    """Train in `folder` as dvc does; the curve of losses, the adapter, and what was printed."""
    edit_params(folder / "params.yaml", lambda params: params["train"].update(launch=configuration))
    result = run([sys.executable, "-m", "stages.train"], folder)
    assert result.returncode == 0, result.stdout + result.stderr
    points = json.loads((folder / "plots/train/loss.json").read_text(encoding="utf-8"))
    adapter = load_file(folder / "models/adapter/adapter_model.safetensors")
    return {
        "losses": [point["loss_nats"] for point in points],
        "adapter": adapter,
        "output": result.stdout,
    }


def on_cpu(name: str) -> str:
    """One of the configurations for GPUs, on the CPU, at a free port; its name."""
    text = (ROOT / f"accelerate/{name}.yaml").read_text(encoding="utf-8")
    assert "use_cpu: false\n" in text
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        text = text.replace(
            "use_cpu: false\n", f"use_cpu: true\nmain_process_port: {free.getsockname()[1]}\n"
        )
    Path(f"accelerate/{name}_on_cpu.yaml").write_text(text, encoding="utf-8")
    return f"{name}_on_cpu"


def test_two_processes_train_what_one_trains_with_the_whole_model_and_with_shards(
    ready: Path,
) -> None:
    shutil.copytree(ROOT / "accelerate", ready / "accelerate")

    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        params["train"] |= {
            "batch_size": 2,
            "gradient_accumulation": 2,
            "max_steps": 5,
            "eval_steps": 5,
            "learning_rate": 0.01,
        }
        params["train"]["lora"]["dropout"] = 0.0

    edit_params(ready / "params.yaml", edit)
    one = launch(ready, "cpu")
    edit_params(ready / "params.yaml", lambda p: p["train"].update(gradient_accumulation=1))
    two = launch(ready, on_cpu("ddp"))
    # Five steps of four rows, and dev, whose rows no number of processes divides; 16 rows make four steps an epoch.
    assert len(one["losses"]) == 6
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert one["losses"][-2] < one["losses"][0]
    sharded = launch(ready, on_cpu("fsdp"))
    assert sharded["losses"] == pytest.approx(one["losses"], abs=1e-4)
    for name, weights in one["adapter"].items():
        assert (weights - two["adapter"][name]).abs().max() < 1e-5
        assert (weights - sharded["adapter"][name]).abs().max() < 1e-5
    assert not list((ready / ".bula/checkpoints").iterdir())


STOPPED = """
from bula.errors import run
from stages.train import callbacks
from stages.train.fit import main

whole = callbacks.EndWell.on_step_end

def told(self, args, state, control, **kwargs):
    self.told |= args.process_index == 1 and state.global_step == 5
    whole(self, args, state, control, **kwargs)

callbacks.EndWell.on_step_end = told
run(main)
"""


def test_two_processes_go_on_within_an_epoch_where_they_stopped(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # accelerate itself and stages/train/__main__.py would choose differently, and so would rounding.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(ROOT / "accelerate", ready / "accelerate")

    def edit(params: dict[str, Any]) -> None:
        params["train"] |= {
            "batch_size": 2,
            "gradient_accumulation": 1,
            "max_steps": 7,
            "eval_steps": 7,
            "learning_rate": 0.01,
        }
        params["train"]["lora"]["dropout"] = 0.1

    # 16 rows of four a step: step 5 is the first of the second epoch, whose order is another.
    edit_params(ready / "params.yaml", edit)
    whole = launch(ready, on_cpu("ddp"))
    (ready / "stopped.py").write_text(STOPPED, encoding="utf-8")
    name = on_cpu("ddp")
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--quiet",
        "--config_file",
        f"accelerate/{name}.yaml",
        "stopped.py",
    ]
    # One process alone was told to; both agree.
    result = run(launcher, ready, CUDA_VISIBLE_DEVICES="")
    assert "train: ended after step 5, which is kept" in result.stderr
    resumed = launch(ready, on_cpu("ddp"))
    assert "train: going on from step 5\n" in resumed["output"]
    assert resumed["losses"] == whole["losses"]
    assert all(
        weights.equal(resumed["adapter"][name]) for name, weights in whole["adapter"].items()
    )


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
def test_a_process_sees_the_gpus_that_its_configuration_means(
    configuration: str,
    named: str | None,
    seen: str | None,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit_params(
        workspace / "params.yaml", lambda params: params["train"].update(launch=configuration)
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    found: list[str] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "execv", lambda program, command: found.extend(command))
    start.main(ROOT / "accelerate")
    assert found[found.index("--config_file") + 1] == str(ROOT / f"accelerate/{configuration}.yaml")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen
    # Training ends with the launcher, which has this process's id.
    assert os.environ["STAGE_PARENT"] == str(os.getpid())


def test_every_configuration_that_a_profile_names_is_there_and_keeps_the_precision_of_params() -> (
    None
):
    names = {path.stem for path in (ROOT / "accelerate").glob("*.yaml")}
    assert names == {"cpu", "gpu", "ddp", "fsdp"}
    assert {load_params(path).train.launch for path in (ROOT / "profiles").glob("*.yaml")} <= names
    for name in names:
        assert (
            YAML(typ="safe").load((ROOT / f"accelerate/{name}.yaml").read_text(encoding="utf-8"))[
                "mixed_precision"
            ]
            == "no"
        )


def test_an_unknown_configuration_is_a_sentence(workspace: Path) -> None:
    shutil.copytree(ROOT / "accelerate", workspace / "accelerate")
    edit_params(workspace / "params.yaml", lambda params: params["train"].update(launch="tpu"))
    result = run([sys.executable, "-m", "stages.train"], workspace)
    assert result.returncode == 1
    known = "Train.launch in params.yaml is one of cpu, ddp, fsdp, gpu."
    assert result.stderr.strip() == f"accelerate/tpu.yaml: the file does not exist. {known}"
    edit_params(workspace / "params.yaml", lambda params: params["train"].update(launch="cpu"))
    # What train itself says is not buried under the launcher's words.
    result = run([sys.executable, "-m", "stages.train"], workspace)
    assert result.returncode == 1
    assert result.stderr.startswith("models/base")
    assert result.stderr.count("\n") == 1


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
def test_what_a_machine_lacks_is_refused_with_a_sentence(
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


def test_several_gpus_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match=r"(?i)set train\.launch to ddp"):
        trainer.refuse(load_params(ROOT / "profiles/smollm2-135m.yaml"))
