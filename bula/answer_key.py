"""Identify a run's answers, so that another run never reuses wrong ones.

The fingerprint covers everything that shapes an answer besides its prompt.
"""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bula.files import sha256_file, sha256_values
from bula.hardware import compute_dtype
from bula.models import list_model_files
from bula.params import Params, Variant
from bula.serving import vllm_python

PACKAGES = ("openai", "torch", "transformers", "xllamacpp")
# Our modules that shape an answer. A test compares them with the imports of answering.py.
MODULES = (
    "answering",
    "answers",
    "api_answers",
    "generation",
    "gguf_config",
    "gguf_files",
    "gguf_repairs",
    "hardware",
    "llama_server",
    "model_files",
    "models",
    "older_configs",
    "server_answers",
    "serving",
    "turn_ends",
    "vllm_guard",
    "weight_checks",
)
# Digits of a fingerprint.
DIGITS = 16
# Prints the version of vLLM, or nothing if it is not installed.
FIND_VLLM = "from importlib.metadata import distributions as found; " + (
    "print(*[one.version for one in found(name='vllm')][:1])"
)


def fingerprint(variant: Variant, params: Params) -> str:
    """Return 16 digits that identify how a prompt is answered.

    They are a hash of the engine with its versions and its code, the kind of machine, the
    precision, the parameters of generate, the seed, and the bytes of the model's files. Of another
    server, only the address and the name of the model are known.
    """
    limits = params.generate
    folder = Path(__file__).parent
    code = [sha256_file(folder / f"{name}.py") for name in MODULES]
    numbers = [limits.max_new_tokens, limits.gpu_layers, params.sampling_seed]
    rules = limits.decoding.model_dump()
    model = variant.model_dump(exclude={"model", "few_shot"})
    place = [] if variant.engine == "openai" else _local(Path(variant.model), params)
    versions = [version(name) for name in PACKAGES]
    if variant.engine == "vllm":
        versions.append(vllm_version())
    return sha256_values(model, numbers, rules, versions, code, place)[:DIGITS]


def _local(path: Path, params: Params) -> list[Any]:
    """Return the files of a model, the precision and the machine."""
    files = [[file.name, sha256_file(file)] for file in list_model_files(path)]
    precision = [params.dtype, compute_dtype(params.dtype), params.device]
    return [files, precision, machine_kind()]


def machine_kind() -> list[Any]:
    """Return the kind of this machine's processor and GPUs.

    Each kind rounds in its own way. `prepare_device` has hidden the GPUs that params.yaml excludes.
    """
    import torch

    processor = {name: str(value) for name, value in torch.cpu.get_capabilities().items()}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [platform.machine(), processor, torch.get_num_threads(), torch.version.cuda, gpus]


def vllm_version() -> str:
    """Return the version of vLLM, or an empty text.

    `make gpu` installs vLLM in another environment.
    """
    command = [vllm_python(), "-c", FIND_VLLM]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
