"""Export a model directory to GGUF files, and check them.

llama.cpp's converters (carried by auto-round) write the types f32, bf16 and q8_0, each architecture
by its own class. auto-round writes the other types by rounding to nearest.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gguf import LlamaFileType

from bula import gguf_converters, gguf_tokenizer
from bula.errors import FIX_NO_ROOM, UserError, is_full_disk, is_out_of_memory
from bula.gguf_files import Shape, check_gguf
from bula.processes import end_with_parent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# llama.cpp's converter writes these types, auto-round writes the others; bench/engines.py uses f32.
CONVERTER = {
    "f32": LlamaFileType.ALL_F32,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
# Converters raise these exceptions for a model that they do not understand.
CONVERTER_ERRORS = (
    AssertionError,
    AttributeError,
    FileNotFoundError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
# The tensor types of each file's matrices, by llama.cpp's rules (llama_tensor_get_type): the
# embeddings, the head, values and down projections may have more bits than the rest.
MATRIX_TYPES = {
    "f32": {"F32"},
    "bf16": {"BF16"},
    "q8_0": {"Q8_0"},
    "q6_k": {"Q6_K", "Q8_0"},
    "q5_k_m": {"Q5_K", "Q6_K"},
    "q5_k_s": {"Q5_K", "Q6_K"},
    "q4_k_m": {"Q4_K", "Q5_K", "Q6_K"},
    "q4_k_s": {"Q4_K", "Q5_K", "Q6_K"},
    "q3_k_m": {"Q3_K", "Q4_K", "Q5_K", "Q6_K"},
    "q2_k_s": {"Q2_K", "Q3_K", "Q4_K", "Q6_K"},
    "q4_0": {"Q4_0", "Q4_1", "Q6_K"},
    "q4_1": {"Q4_1", "Q6_K"},
    "q5_0": {"Q5_0", "Q6_K"},
    "q5_1": {"Q5_1", "Q6_K"},
}
# llama.cpp's replacements for a row that is not a multiple of a K type's block of 256 numbers.
NARROW_TYPES = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
K_BLOCK = 256
# The block of the other quantized types; a row that is no multiple of it stays in 16 bits.
BLOCK = 32
# The 16-bit file may differ from the merged model by rounding alone: SmolLM2's differs by 0 nats. A
# file written for another architecture differed by 0.08 to 11.7 nats.
SIXTEEN_BIT_LIMIT_NATS = 1e-3
# Mean KL from the 16-bit file, by the bits of a type. SmolLM2-135M is small and so loses much: q8_0
# costs it 0.0013 nats, q4_k_m 0.044. Ten times as much is no longer the price of rounding.
LIMITS_NATS = {
    "q8": 0.01,
    "q6": 0.05,
    "q5": 0.2,
    "q4": 0.5,
    "q3": 1.5,
    "q2": 4.0,
}
# auto-round prints a long log, and an error at its end.
SHOWN_LINES = 15
MORE_MEMORY = "end other programs, use a machine with more memory, or remove the type"
ANOTHER_BASE = "use another base, or remove the type from quantize.types"


class ModelMetadata(NamedTuple):
    """Describe a model in its GGUF file, beside weights and tokenizer.

    Languages are ISO 639-1 codes. `license` is an SPDX id or a name of the Hugging Face hub;
    `license_link` may be empty. `base_url` is the address of the base model's repository.
    """

    name: str
    languages: list[str]
    license: str
    license_link: str
    base_name: str
    base_organization: str
    base_url: str
    tags: list[str]


def export(directory: Path, kind: str, file: Path, metadata: ModelMetadata | None = None) -> None:
    """Write one GGUF file with the exporter for its type.

    Raise a UserError if the architecture, the tokenizer or the type cannot be exported.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as temporary:
        name = metadata.name if metadata else directory.name
        linked = Path(temporary) / name.replace("/", "-")
        _link_files(directory, linked, metadata)
        if kind in CONVERTER:
            convert(linked, kind, file)
        else:
            round_to(linked, kind, file)
    _refuse_lost_window(directory, file)
    refuse_other_types(kind, file)


def _link_files(directory: Path, linked: Path, metadata: ModelMetadata | None) -> None:
    """Fill a folder with links to the model's files, and the exporters' other inputs.

    They take the name from the folder and the other metadata from the front matter of README.md.
    """
    linked.mkdir()
    for file in directory.iterdir():
        (linked / file.name).symlink_to(file.absolute())
    if not (linked / gguf_tokenizer.NAME).exists():
        gguf_tokenizer.write_pieces(directory, linked / gguf_tokenizer.NAME)
    if metadata is not None:
        card = linked / "README.md"
        card.unlink(missing_ok=True)
        # A JSON object is also YAML.
        card.write_text(f"---\n{json.dumps(_front_matter(metadata))}\n---\n", encoding="utf-8")


def _front_matter(metadata: ModelMetadata) -> dict[str, Any]:
    """Return metadata under the names of a Hugging Face model card."""
    base = {
        "name": metadata.base_name,
        "organization": metadata.base_organization,
        "repo_url": metadata.base_url,
    }
    card = {
        "language": metadata.languages,
        "license": metadata.license,
        "license_link": metadata.license_link,
        "tags": metadata.tags,
        "base_model": [{key: value for key, value in base.items() if value}],
    }
    return {key: value for key, value in card.items() if value}


def convert(directory: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with llama.cpp's converter for the architecture."""
    architecture = _architecture(directory)
    converter = gguf_converters.find_converter(architecture)
    if converter is None:
        what = f"llama.cpp has no converter for its architecture {architecture}"
        raise UserError(directory.name, what, "use another base")
    try:
        converter(directory, CONVERTER[kind], file, model_name=directory.name).write()
    except CONVERTER_ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"llama.cpp's converter for {architecture} refuses it ({reason})"
        raise UserError(directory.name, what, "use another base") from error


def _architecture(directory: Path) -> str:
    """Return the architecture that config.json names."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return str((config.get("architectures") or ["unknown"])[0])


def round_to(directory: Path, kind: str, file: Path) -> None:
    """Write one GGUF file with auto-round, by rounding to nearest.

    Raise a UserError with the last lines of auto-round's output if it fails.
    """
    folder = file.with_suffix("")
    # The current directory need not be the repository; -P keeps bula/ off the module path.
    command = [sys.executable, "-P", str(gguf_converters.__file__), "--model", str(directory)]
    command += ["--format", f"gguf:{kind}", "--output_dir", str(folder)]
    # These two options select plain rounding to nearest.
    command += ["--iters", "0", "--disable_opt_rtn"]
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        preexec_fn=end_with_parent,
    )
    written = sorted(folder.rglob("*.gguf"))
    if result.returncode != 0 or len(written) != 1:
        killed = result.returncode == -signal.SIGKILL
        raise _rounding_error(directory.name, kind, result.stdout, killed=killed)
    written[0].replace(file)
    shutil.rmtree(folder)


def _rounding_error(name: str, kind: str, output: str, *, killed: bool) -> UserError:
    """Return the UserError for auto-round's failure, whose fix depends on the output.

    The kernel kills a process when the machine's memory is full.
    """
    last = "\n".join(output.splitlines()[-SHOWN_LINES:])
    what = f"auto-round could not write {kind}; its last lines:\n{last}"
    failure = RuntimeError(output)
    if is_full_disk(failure):
        return UserError("the disk", f"it has no room: {what}", FIX_NO_ROOM)
    if killed or is_out_of_memory(failure):
        return UserError(name, f"it ran out of memory: {what}", MORE_MEMORY)
    return UserError(name, what, ANOTHER_BASE)


def _refuse_lost_window(directory: Path, file: Path) -> None:
    """Raise a UserError if the file lost the model's attention window.

    llama.cpp's architecture for Llama and Mistral has no window: later tokens would see the whole
    text. A window as long as the context has no effect.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    window = config.get("sliding_window")
    is_used = window and config.get("use_sliding_window", True)
    if not is_used or window >= config.get("max_position_embeddings", 0):
        return
    fields = check_gguf(file).fields
    if not fields.get(f"{fields['general.architecture']}.attention.sliding_window"):
        lost = f"its attention window of {window} tokens cannot be stored"
        what = f"{lost} in a GGUF file of this architecture"
        fix = "use another base, or set sliding_window to null in its config.json"
        raise UserError(directory.name, what, fix)


def refuse_other_types(kind: str, file: Path) -> None:
    """Raise a UserError if a tensor's type is not allowed in this file."""
    header = check_gguf(file)
    for name, shape in header.tensors.items():
        found = header.types[name]
        if found not in _allowed_types(kind, shape):
            what = f"its tensor {name} is {found}, which is no part of {kind}"
            raise UserError(file.name, what, ANOTHER_BASE)


def _allowed_types(kind: str, shape: Shape) -> set[str]:
    """Return the types that a tensor with rows of this length may have."""
    matrix = MATRIX_TYPES[kind]
    row = shape[0]
    if len(shape) == 1:
        # Norms, biases and RoPE factors are never rounded.
        return {"F32"}
    if row % BLOCK:
        return matrix | {"F16"}
    if row % K_BLOCK:
        return matrix | {NARROW_TYPES[name] for name in matrix & NARROW_TYPES.keys()}
    return matrix


def check_chat_metadata(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a GGUF file contains the chat template and end-of-turn token.

    A user of the file has no other source for them: without the template, questions take another
    form than in training; without the token, answers never stop. Raise UserError if one is missing
    or differs from the tokenizer's.
    """
    fields = check_gguf(file).fields
    expected = {
        "tokenizer.chat_template": tokenizer.chat_template,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
    }
    for name, value in expected.items():
        if name not in fields or fields[name] != value:
            what = f"its {name} is missing or differs from the merged model's; nothing was written"
            raise UserError(file.name, what, "use another type in quantize.types, or another base")


def describe(file: Path) -> dict[str, int | str]:
    """Return the size in bytes and the number of tensors per type."""
    types = Counter(check_gguf(file).types.values())
    figures: dict[str, int | str] = {"bytes": file.stat().st_size}
    for name, count in sorted(types.items()):
        figures[f"tensors_{name.lower()}"] = count
    return figures


def written_types(kept: Iterable[str]) -> list[str]:
    """Return the types to write and compare, the 16-bit type first."""
    return ["bf16", *(kind for kind in kept if kind != "bf16")]


def refuse_divergent(kind: str, kl_nats: float) -> None:
    """Raise a UserError if a file differs too much from its reference."""
    limit = SIXTEEN_BIT_LIMIT_NATS if kind == "bf16" else LIMITS_NATS[kind[:2]]
    # A NaN is no number within the limit.
    if not kl_nats <= limit:
        reference = "the merged model" if kind == "bf16" else "the 16-bit file"
        found = f"KL {kl_nats:.2g} nats per token (limit {limit:g})"
        what = f"its logits differ from the logits of {reference}: {found}"
        fix = "use another base" if kind == "bf16" else "remove it from quantize.types"
        raise UserError(f"{kind}.gguf", f"{what}; nothing was written", fix)
