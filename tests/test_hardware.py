"""The device of params.yaml is the device in use: real cards, drivers and torch builds."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from bench.clones import ROOT, edit_params
from bula.commands.deps import entry_files
from bula.errors import UserError
from bula.hardware import device, prepare_device
from bula.launch import find_configuration, read_configuration
from bula.params import load_params
from stages import check
from stages.train import trainer
from tests.conftest import run

# torch.cuda.get_arch_list() of the builds for CUDA 13.0 and 12.6.
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
V100 = ("Tesla V100-SXM2-16GB", 7, 0)
T4 = ("Tesla T4", 7, 5)
A100 = ("NVIDIA A100-SXM4-80GB", 8, 0)
L4 = ("NVIDIA L4", 8, 9)
H100 = ("NVIDIA H100 80GB HBM3", 9, 0)
B200 = ("NVIDIA B200", 10, 0)
THOR = ("NVIDIA Thor", 11, 0)
GB10 = ("NVIDIA GB10", 12, 1)
Card = tuple[str, int, int]

# The texts that torch raises when it starts CUDA.
NO_GPU = "No CUDA GPUs are available"
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed "
    "a driver from http://www.nvidia.com/Download/index.aspx"
)
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: "
    "http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to "
    "install a PyTorch version that has been compiled with your version of the CUDA driver."
)
UNKNOWN = (
    "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env "
    "variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
)
BUSY = (
    "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be "
    "asynchronously reported at some other API call, so the stacktrace below might be incorrect."
)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own environment, with all GPUs visible."""
    environment = dict(os.environ)
    for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK"):
        environment.pop(name, None)
    monkeypatch.setattr(os, "environ", environment)


def install(
    monkeypatch: pytest.MonkeyPatch, card: Card, architectures: list[str], count: int = 1
) -> list[int]:
    """Make torch see cards of one kind; return a list of the selected cards."""
    name, major, minor = card
    selected: list[int] = []
    ones = torch.ones

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or major >= 8

    def ones_on_cpu(*size: int, **options: Any) -> torch.Tensor:
        selected.append(int(options.pop("device").removeprefix("cuda:")))
        return ones(*size, **options)

    answers: dict[str, Any] = {
        "torch.backends.cuda.is_built": lambda: True,
        "torch.cuda.init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: count,
        "torch.cuda.set_device": selected.append,
        "torch.cuda.get_device_name": lambda index: name,
        "torch.cuda.get_device_capability": lambda index: (major, minor),
        "torch.cuda.get_arch_list": lambda: architectures,
        "torch.cuda.is_bf16_supported": is_bf16_supported,
        "torch.ones": ones_on_cpu,
    }
    for function, answer in answers.items():
        monkeypatch.setattr(function, answer)
    return selected


def complaint(dtype: str = "bfloat16") -> str:
    """Return the sentence with which `device: cuda` is refused."""
    with pytest.raises(UserError) as raised:
        prepare_device("cuda", dtype)
    assert raised.value.where == "params.yaml"
    assert raised.value.what.startswith("device is cuda, but ")
    return str(raised.value)


@pytest.mark.parametrize(
    ("card", "architectures"),
    [
        (A100, CUDA_13),
        (A100, CUDA_12),
        # Code for 8.6 runs on 8.9, and code for 12.0 on 12.1.
        (L4, CUDA_13),
        (GB10, CUDA_13),
        (H100, CUDA_13),
        (H100, ["sm_90a"]),
        (B200, CUDA_13),
        (B200, ["compute_90"]),
        (B200, ["sm_100f"]),
        # AMD's names say nothing about compute capability.
        (H100, ["gfx90a", "gfx942"]),
    ],
)
def test_a_card_that_torch_can_use_is_accepted(
    card: Card, architectures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    selected = install(monkeypatch, card, architectures)
    prepare_device("cuda", "bfloat16")
    assert device() == "cuda"
    assert selected == [0, 0]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("card", "architectures"),
    [
        (V100, CUDA_13),
        (B200, CUDA_12),
        (THOR, ["sm_100f", "sm_120"]),
        (B200, ["sm_90a", "compute_90a"]),
        # Code for 8.9 does not run on 8.0.
        (A100, ["sm_89"]),
    ],
)
def test_a_card_for_which_torch_has_no_code_is_refused(
    card: Card, architectures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, card, architectures)
    name, major, minor = card
    said = complaint("float32")
    assert f"has no code for the GPU {name} (compute capability {major}.{minor})" in said
    assert f"only for {' '.join(architectures)}. Install another torch build" in said


@pytest.mark.parametrize(("card", "architectures"), [(T4, CUDA_13), (V100, CUDA_12)])
def test_a_card_that_emulates_bfloat16_computes_in_float32_only(
    card: Card, architectures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, card, architectures)
    prepare_device("cuda", "float32")
    said = complaint("bfloat16")
    assert f"the GPU {card[0]} (compute capability {card[1]}.{card[2]}) only emulates" in said
    assert "Set dtype: float32" in said


@pytest.mark.parametrize(
    ("text", "reason", "fix"),
    [
        (NO_GPU, f"torch finds no GPU ({NO_GPU})", "Run on a machine with an NVIDIA GPU"),
        (
            NO_DRIVER,
            "torch finds no GPU (Found no NVIDIA driver on your system)",
            "or set device: cpu and train.launch: cpu.",
        ),
        (
            OLD_DRIVER,
            "torch is built for CUDA 13.0: The NVIDIA driver on your system is too old "
            "(found version 11040)",
            "Update the driver, or install another torch build",
        ),
        (UNKNOWN, f"torch finds no GPU ({UNKNOWN.partition('. S')[0]})", "Run on a machine"),
    ],
    ids=["no GPU", "no driver", "old driver", "unknown"],
)
def test_cuda_that_does_not_start_is_refused_with_torchs_reason(
    text: str, reason: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, H100, CUDA_13)
    monkeypatch.setattr("torch.version.cuda", "13.0")

    def fail() -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("torch.cuda.init", fail)
    said = complaint()
    assert reason in said
    assert fix in said
    assert said.count("http") == 0


def test_a_hidden_gpu_is_reported_with_the_variable_that_hides_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, H100, CUDA_13, count=0)
    os.environ["CUDA_VISIBLE_DEVICES"] = "7"
    assert "torch finds no GPU (none is visible; CUDA_VISIBLE_DEVICES is '7')" in complaint()


def test_torch_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, H100, CUDA_13)
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: False)
    said = complaint()
    assert f"torch {torch.__version__} is built for CPUs only" in said
    assert "TORCH_INDEX" in said


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(BUSY), "all CUDA-capable devices are busy or unavailable"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "CUDA out of memory"),
    ],
)
def test_a_gpu_that_another_program_holds_is_refused(
    error: RuntimeError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, H100, CUDA_13)

    def fail(*size: int, **options: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr("torch.ones", fail)
    said = complaint()
    assert f"cannot compute ({'CUDA error: ' * (reason[0] == 'a')}{reason})" in said
    assert "nvidia-smi" in said


def test_a_gpu_that_computes_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, H100, CUDA_13)
    zeros = torch.zeros(16, 16)
    monkeypatch.setattr("torch.ones", lambda *size, **options: zeros)
    assert "computes 0.0 for a sum of 4096" in complaint()


def test_each_process_of_a_launch_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    selected = install(monkeypatch, H100, CUDA_13, count=2)
    os.environ["LOCAL_RANK"] = "1"
    prepare_device("cuda", "bfloat16")
    assert selected == [1, 1]
    os.environ["LOCAL_RANK"] = "2"
    assert "process 2 of this machine has no GPU: torch sees 2. Lower num_processes" in complaint()


def test_device_cpu_hides_the_gpus_from_this_process_and_its_children() -> None:
    prepare_device("cpu", "bfloat16")
    assert device() == "cpu"
    command = [sys.executable, "-c", "import os; print([os.environ['CUDA_VISIBLE_DEVICES']])"]
    child = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert child.stdout == "['']\n"


def test_device_cpu_is_refused_when_cuda_already_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, H100, CUDA_13)
    with pytest.raises(UserError, match="a library started CUDA before the GPU could be hidden"):
        prepare_device("cpu", "bfloat16")


@pytest.mark.parametrize(("asked", "chosen"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_training_is_refused_on_another_device_than_accelerates(asked: str, chosen: str) -> None:
    arguments: Any = SimpleNamespace(device=torch.device(chosen), world_size=2)
    with pytest.raises(UserError, match=f"device is {asked}, but accelerate chose {chosen}"):
        trainer._start_processes(arguments, asked)
    assert trainer._start_processes(arguments, chosen) == 2


# Stages

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# The functions that put a model on the device, and the modules of those with a common name.
LOADERS = {"load_model", "load_adapted", "HFLM", "open_encoder", "merge_adapter"}
ANSWERING = ("bula.answering", {"answer", "ask"})


def parse(stage: str) -> list[ast.Module]:
    """Return the syntax trees of a stage's own modules, the entry first."""
    [entry] = [file for file in entry_files(ROOT, stage) if not file.endswith("__init__.py")]
    modules = [ROOT / entry]
    if (ROOT / "stages" / stage).is_dir():
        modules += sorted((ROOT / "stages" / stage).glob("*.py"))
    return [ast.parse(module.read_text(encoding="utf-8")) for module in modules]


def computes(stage: str) -> bool:
    """Return whether a stage calls a function that loads a model."""
    nodes = [node for tree in parse(stage) for node in ast.walk(tree)]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    module, asking = ANSWERING
    asks = {name.name for node in imports if node.module == module for name in node.names}
    return bool(names & LOADERS or asks & asking)


def listed_params(stage: str) -> list[str]:
    """Return the parameters that dvc.yaml lists for a stage."""
    entry = DVC[stage]
    names: list[str] = entry.get("do", entry)["params"]
    return names


def first_statements(stage: str) -> list[str]:
    """Return the first two statements of a stage's main, after docstring and imports."""
    functions = [node for node in parse(stage)[0].body if isinstance(node, ast.FunctionDef)]
    [main] = [function for function in functions if function.name == "main"]
    imports = (ast.Import, ast.ImportFrom)
    statements = [statement for statement in main.body[1:] if not isinstance(statement, imports)]
    return [ast.unparse(statement) for statement in statements[:2]]


def test_these_stages_load_a_model() -> None:
    found = {stage for stage in DVC if computes(stage)}
    scored = {"likelihood", "generate", "safety", "benchmark", "bertscore", "bertscore_controls"}
    trained = {"train", "merge", "prefer", "quantize"}
    assert found == {"models", "dry_run", "preprocess", *trained, *scored}


# preprocess loads a model only if a parameter names one, and then on the CPU.
@pytest.mark.parametrize("stage", sorted(set(DVC) - {"preprocess"}))
def test_each_stage_that_loads_a_model_prepares_the_device_before_it_reads(stage: str) -> None:
    statements = first_statements(stage)
    is_prepared = statements[1].startswith("prepare_device(")
    assert is_prepared == computes(stage)
    assert not is_prepared or statements[0] == "params = load_params()"
    uses_device = statements[1].startswith("prepare_device(params.device, ")
    # models only rewrites weights, and another device must not fetch them again.
    assert uses_device == (is_prepared and stage != "models")
    # The report of compare names the device.
    assert ("device" in listed_params(stage)) == (uses_device or stage in ("check", "compare"))


IMPORTS = """
import torch

def ask(*arguments, **options):
    raise SystemExit("a library asked CUDA for its devices")

torch.cuda._lazy_init = ask
if torch.backends.cuda.is_built():
    torch._C._cuda_getDeviceCount = ask
else:
    # A build for CPUs answers without CUDA.
    torch.cuda.is_available = ask
import stages.generate, stages.likelihood, stages.merge, stages.quantize
import stages.benchmark.__main__, stages.dry_run.__main__
import stages.ingest.__main__, stages.models.__main__, stages.train.fit
"""


def test_no_import_of_a_stage_starts_cuda() -> None:
    result = run([sys.executable, "-c", IMPORTS], ROOT)
    assert (result.returncode, result.stderr) == (0, "")


# The launch configuration


@pytest.mark.parametrize("name", ["cpu", "gpu", "ddp", "fsdp"])
@pytest.mark.parametrize("asked", ["cpu", "cuda"])
def test_the_launch_configuration_agrees_with_the_device(name: str, asked: str) -> None:
    file = find_configuration(name, ROOT / "accelerate")
    if (name == "cpu") == (asked == "cpu"):
        assert read_configuration(file, asked)["num_processes"] >= 1
        return
    with pytest.raises(UserError) as raised:
        read_configuration(file, asked)
    said = str(raised.value)
    assert said.startswith(f"params.yaml: train.launch is {name}, ")
    assert f"but device is {asked}. Set device: " in said


@pytest.mark.parametrize("stage", ["check", "train"])
def test_a_gpu_launch_with_device_cpu_is_refused_before_training(
    workspace: Path, stage: str
) -> None:
    (workspace / "accelerate").symlink_to(ROOT / "accelerate")
    edit_params(workspace / "params.yaml", lambda params: params["train"].update(launch="gpu"))
    result = run([sys.executable, "-m", f"stages.{stage}"], workspace)
    assert result.returncode == 1
    assert result.stderr.startswith("params.yaml: train.launch is gpu, whose file")
    assert result.stderr.count("\n") == 1
    assert not (workspace / "data/checked.txt").exists()


@pytest.mark.parametrize("stage", ["check", "dry_run"])
def test_a_gpu_run_without_a_gpu_stops_before_data_is_read(workspace: Path, stage: str) -> None:
    (workspace / "accelerate").symlink_to(ROOT / "accelerate")

    def ask_for_gpu(params: dict[str, Any]) -> None:
        params["device"] = "cuda"
        params["train"]["launch"] = "gpu"

    edit_params(workspace / "params.yaml", ask_for_gpu)
    command = [sys.executable, "-m", f"stages.{stage}"]
    result = run(command, workspace, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    assert result.stderr.startswith("params.yaml: device is cuda, but torch ")
    assert result.stderr.count("\n") == 1
    assert not (workspace / "data/tried.txt").exists()
    assert not (workspace / "data/checked.txt").exists()


def test_the_check_imports_no_torch_for_a_cpu(workspace: Path) -> None:
    code = "import sys; from stages.check import main; main(); assert 'torch' not in sys.modules"
    for name in ("accelerate", "dvc.yaml"):
        (workspace / name).symlink_to(ROOT / name)
    result = run([sys.executable, "-c", code], workspace)
    assert (result.returncode, result.stderr) == (0, "")
    assert (workspace / "data/checked.txt").read_text(encoding="utf-8") == "params.yaml is valid\n"


def test_the_check_accepts_a_gpu_that_works(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, H100, CUDA_13)
    edit_params(workspace / "params.yaml", lambda params: params.update(device="cuda"))
    edit_params(workspace / "params.yaml", lambda params: params["train"].update(launch="gpu"))
    check.check_device(load_params(), ROOT / "accelerate")
    install(monkeypatch, T4, CUDA_13)
    with pytest.raises(UserError, match="only emulates dtype bfloat16"):
        check.check_device(load_params(), ROOT / "accelerate")


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")))
def test_the_device_of_each_profile_agrees_with_its_launch(profile: Path) -> None:
    params = load_params(profile)
    file = find_configuration(params.train.launch, ROOT / "accelerate")
    assert read_configuration(file, params.device)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"use_cpu: [true\n", "it is no YAML file"),
        (b"use_cpu: \xff\n", "it is no YAML file"),
        (b"", "it contains no settings"),
        (b"- use_cpu\n", "it contains no settings"),
    ],
)
def test_a_broken_launch_configuration_is_one_sentence(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_configuration(find_configuration("own", tmp_path), "cpu")
    assert raised.value.where == str(file)
    assert "\n" not in str(raised.value)
