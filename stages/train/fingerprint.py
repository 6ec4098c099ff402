"""Find the checkpoints of runs with the same inputs."""

from pathlib import Path

from bula.checkpoints import code_files
from bula.checkpoints import fingerprint as run_fingerprint
from bula.params import Params

CODE = code_files(Path(__file__).parent, ("lora", "lora_kernels", "model_kernels", "shared_prefix"))


def fingerprint(params: Params, files: list[Path]) -> str:
    """Return a hash of everything that shapes the adapter, 16 hexadecimal digits.

    Beside the inputs of any training, it covers train's parameters, and the longest row, up to
    which packing fills rows.
    """
    settings = [params.train.model_dump(), params.preprocess.max_tokens]
    return run_fingerprint(params, settings, files)
