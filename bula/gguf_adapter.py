"""Write a LoRA adapter as a GGUF file for llama.cpp's option --lora.

llama.cpp's own converter of the base model's architecture names the tensors and orders their rows,
so that the adapter fits the GGUF file of the base model.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import torch
from safetensors.torch import load_file

from bula.errors import UserError
from bula.gguf_converters import find_converter
from bula.model_files import LAYER

PREFIX = "base_model.model."
FIX = "use an adapter on linear layers, such as target_modules: all-linear"
# Float32 matmuls that sum in different orders differ by less.
TOLERANCE = 1e-4


class Pair(NamedTuple):
    """The two matrices of one adapted layer: A (rank, in) and B (out, rank)."""

    a: torch.Tensor
    b: torch.Tensor


def write_gguf_adapter(adapter: Path, model: Path, file: Path) -> None:
    """Write the adapter as one GGUF file in float32.

    `model` is a directory of the architecture of the base model, such as the merged model. Raise a
    UserError if llama.cpp has no form for the adapter.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    pairs = read_pairs(adapter)
    converter = make_converter(model, file)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[converter.model_arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    # The metadata are those of the adapter's card.
    gguf.Metadata.load(model_path=adapter).set_gguf_meta_model(writer)
    for name, pair in pairs.items():
        for target, (a, b) in convert_pair(converter, name, pair, adapter):
            writer.add_tensor(f"{target}.lora_a", a.numpy())
            writer.add_tensor(f"{target}.lora_b", b.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_converter(model: Path, file: Path) -> Any:
    """Return llama.cpp's converter of a model directory, which writes `file` in float32."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    architecture = config["architectures"][0]
    converter = find_converter(architecture)
    if converter is None:
        what = f"llama.cpp has no converter for its architecture {architecture}"
        raise UserError(model, what, "use another base")
    return converter(model, gguf.LlamaFileType.ALL_F32, file, eager=True)


def read_pairs(adapter: Path) -> dict[str, Pair]:
    """Return an adapter's matrices in float32, by the name of the adapted weight.

    Raise a UserError for other tensors, such as those of embeddings.
    """
    tensors = load_file(adapter / "adapter_model.safetensors")
    pairs = {}
    for name in sorted(tensors):
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            pair = Pair(tensors[name].float(), tensors[f"{stem}.lora_B.weight"].float())
            pairs[f"{stem.removeprefix(PREFIX)}.weight"] = pair
        elif not name.endswith(".lora_B.weight"):
            what = f"llama.cpp cannot apply an adapter that contains the tensor {name}"
            raise UserError(adapter, what, FIX)
    return pairs


def convert_pair(
    converter: Any, name: str, pair: Pair, adapter: Path
) -> Iterator[tuple[str, Pair]]:
    """Yield the tensors of llama.cpp for one adapted weight, with their matrices.

    The converter permutes or splits the rows of a weight, and rows of B are rows of B @ A. Raise a
    UserError if it does anything else.
    """
    match = LAYER.search(name)
    layer = int(match[1]) if match else None
    changed = dict(converter.modify_tensors(pair.b @ pair.a, name, layer))
    for target, b in converter.modify_tensors(pair.b, name, layer):
        found = b @ pair.a
        if found.shape != changed[target].shape or not _is_close(found, changed[target]):
            what = f"llama.cpp's converter changes more than the order of the rows of {name}"
            raise UserError(adapter, what, FIX)
        yield target, Pair(pair.a, b.contiguous())


def _is_close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two products agree up to rounding."""
    scale = float(second.abs().max())
    return bool((first - second).abs().max() <= TOLERANCE * scale)
