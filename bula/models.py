"""Seed, device, dtype, and the only way in which the pipeline loads a model or a tokenizer.

A model is always a directory or one GGUF file on this machine; nothing here reaches a hub.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from bula.errors import UserError
from bula.files import staged
from bula.gguf_files import FETCH_AGAIN, ROPE_TENSORS, check_gguf, shared_reader
from bula.gguf_repairs import apply_rope_factors, drop_unknown_tokens
from bula.hardware import compute_dtype, device
from bula.model_files import Shapes, check_adapter, check_model

# What llama.cpp takes for the end of a generation, whatever else a file says.
END_TOKENS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
)
# The padding tokens that some tokenizers define but do not name; a pad equal to the end of turn would hide it.
PAD_CANDIDATES = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>")
# What transformers, PEFT, safetensors and gguf raise over files that passed our own checks.
LIBRARY_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    UnpicklingError,
    ValueError,
    struct.error,
)
# Names of tensors that a sentence lists.
NAMED_TENSORS = 3


@contextmanager
def library_errors(path: Path) -> Iterator[None]:
    """Turn what a library raises while it reads `path` into a UserError.

    Only the library's call belongs inside: its arguments are constants, so the files are at fault.
    """

    def translate(kind: type[BaseException] | None, error: Any, trace: object) -> bool:
        # The package tokenizers raises the class Exception itself; its subclasses stay bugs.
        if kind is Exception or (kind is not None and issubclass(kind, LIBRARY_ERRORS)):
            raise _unreadable(path, error) from error
        return False

    with ExitStack() as stack:
        stack.push(translate)
        yield


def _unreadable(path: Path, error: Exception) -> UserError:
    """Return the UserError for a library's error, with the first line of what the library says."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return UserError(
            path, "the memory is too small for it", "use a smaller model or a larger machine"
        )
    if isinstance(error, ImportError):
        return UserError(path, f"a package is missing ({error})", "install it with pip")
    first = (str(error).strip().splitlines() or ["no message"])[0][:300]
    return UserError(path, f"it cannot be loaded ({type(error).__name__}: {first})", FETCH_AGAIN)


def _gguf(path: Path) -> dict[str, Any]:
    """Return the arguments of from_pretrained that tell a GGUF file from a directory."""
    return {"gguf_file": path.name} if path.suffix == ".gguf" else {}


def list_model_files(path: Path) -> list[Path]:
    """Return all files of a model, sorted by name; UserError if the model does not exist."""
    if not path.exists():
        raise UserError(path, "it does not exist", "`dvc repro` writes it, `dvc pull` fetches it")
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file())


def load_model(
    path: Path, dtype: str, *, weights: str = "full", attention: str = "sdpa"
) -> PreTrainedModel:
    """Load a model directory or GGUF file in evaluation mode, on the device.

    Its weights are in `dtype` (bfloat16 or float32). Where the machine computes in another
    precision (`compute_dtype`), the rounded weights are widened to it. GGUF weights are unpacked to
    `dtype`, so that quantized and full models are scored by the same arithmetic. With `weights` int8
    or nf4 bitsandbytes quantizes the linear layers while loading; the other layers and the matmuls
    are then in the precision of computing. UserError if the files are broken, incomplete, or not
    finite.
    """
    check_model(path)
    computed = getattr(torch, compute_dtype(dtype))
    held = getattr(torch, dtype) if weights == "full" else computed
    arguments = _gguf(path)
    if arguments:
        arguments["quantization_config"] = GgufConfig(dequantize=True)
    else:
        arguments["use_safetensors"] = True
        if weights != "full":
            arguments |= _quantized(weights, computed)
    with library_errors(path), shared_reader():
        model, found = AutoModelForCausalLM.from_pretrained(
            path.parent if path.suffix == ".gguf" else path,
            dtype=held,
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            # Shapes that differ are then named in `found`; transformers only logs them.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **arguments,
        )
    refuse_incomplete(path, found)
    model.generation_config.use_cache = True
    if path.suffix == ".gguf":
        refuse_unused(model, path)
        apply_rope_factors(model, path)
    if weights == "full":
        # A quantized model is where its device_map put it, and refuses to be moved.
        model.to(device())
    refuse_broken(model, path)
    if weights == "full" and computed == torch.float32:
        # Never to bfloat16: that would round the rotary frequencies, too.
        model.float()
    return model.eval()


def _quantized(weights: str, computed: torch.dtype) -> dict[str, Any]:
    """Return the arguments of from_pretrained for a base in int8 or nf4."""
    bits: dict[str, Any] = {"load_in_8bit": True}
    if weights != "int8":
        bits = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": weights,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": computed,
        }
    return {"quantization_config": BitsAndBytesConfig(**bits), "device_map": {"": device()}}


def _named(names: list[str]) -> str:
    """Return the first names of a list, and how many there are."""
    shown = ", ".join(sorted(names)[:NAMED_TENSORS])
    return f"{len(names)}, such as {shown}"


def refuse_incomplete(path: Path, found: dict[str, Any]) -> None:
    """Raise a UserError if tensors are missing, unexpected or of another shape.

    transformers fills what is missing with random numbers, and says so only in its log.
    """
    mismatched = [name for name, *_ in found["mismatched_keys"]]
    problems = {
        "tensors are missing": list(found["missing_keys"]),
        "tensors are of another model": list(found["unexpected_keys"]),
        "tensors have another shape than config.json says": mismatched,
        "tensors cannot be converted": list(found["error_msgs"]),
    }
    for what, names in problems.items():
        if names:
            raise UserError(path, f"{what} ({_named(names)})", FETCH_AGAIN)


def refuse_unused(model: PreTrainedModel, file: Path) -> None:
    """Raise a UserError if a GGUF file holds tensors that transformers passed over."""
    header = check_gguf(file)
    family = str(header.fields["general.architecture"])
    processor = TENSOR_PROCESSORS.get(family, TensorProcessor)(config={})
    held = header.tensors.keys() - ROPE_TENSORS
    # Without its children the model's names take 0.1 s instead of 7 s; few families need theirs.
    top = SimpleNamespace(
        config=model.config, state_dict=model.state_dict, named_children=lambda: []
    )
    unused = held - get_gguf_hf_weights_map(top, processor).keys()
    if unused:
        unused = held - get_gguf_hf_weights_map(model, processor).keys()
    if unused:
        raise UserError(file, f"tensors are of another model ({_named(list(unused))})", FETCH_AGAIN)


def refuse_broken(model: PreTrainedModel, path: Path) -> None:
    """Raise a UserError if a weight is NaN or infinite, or tied weights differ."""
    for name, weight in model.named_parameters():
        if not _is_finite(weight):
            raise UserError(
                path, f"{name} is not finite: it holds a NaN or an infinity", FETCH_AGAIN
            )
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = model.config.get_text_config().tie_word_embeddings
    if tied and head is not None and head.weight.data_ptr() != embeddings.weight.data_ptr():
        what = "config.json ties the head to the embeddings, and the weights have another head"
        raise UserError(path, what, "set tie_word_embeddings to false, or remove the head")


def _is_finite(weight: torch.Tensor) -> bool:
    """Return whether all numbers of a tensor are finite; integers always are.

    Smallest and largest number take 8 ms for 64 million bfloat16 numbers on a CPU, isfinite 630 ms.
    A NaN anywhere makes both NaN.
    """
    if not weight.is_floating_point():
        return True
    return all(bool(value.isfinite()) for value in weight.detach().aminmax())


def load_adapted(base: Path, adapter: Path, dtype: str) -> PreTrainedModel:
    """Load base and adapter, unmerged, in `dtype`, in evaluation mode.

    UserError if the adapter is no complete LoRA adapter of this base.
    """
    # Imported here: most stages load no adapter.
    from peft import PeftModel

    shapes = check_adapter(adapter)
    model = load_model(base, dtype)
    with library_errors(adapter), warnings.catch_warnings():
        # The comparison below names what is missing.
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        model = PeftModel.from_pretrained(model, adapter, is_trainable=False)
    refuse_other_adapter(model, adapter, shapes)
    # Dropout would hide a wrong merge.
    return model.eval()


def refuse_other_adapter(model: PreTrainedModel, adapter: Path, shapes: Shapes) -> None:
    """Raise a UserError unless an adapter's file holds exactly the finite matrices it needs."""
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    wanted = {name: tuple(weight.shape) for name, weight in expected.items()}
    problems = {
        "matrices are missing": [name for name in wanted if name not in shapes],
        "matrices belong to no layer": [name for name in shapes if name not in wanted],
        "matrices have another shape": [
            name for name in wanted if shapes.get(name, wanted[name]) != wanted[name]
        ],
        "matrices hold a NaN or an infinite number": [
            name for name, weight in expected.items() if not _is_finite(weight)
        ],
    }
    for what, names in problems.items():
        if names:
            fix = "train it again with `dvc repro train`, or name the base that it was trained on"
            raise UserError(adapter, f"{what} ({_named(names)})", fix)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory or GGUF file.

    UserError if it is broken, or lacks a chat template, an end-of-turn token or a padding token.
    """
    check_model(path)
    arguments = _gguf(path)
    folder = path.parent if arguments else path
    with library_errors(path), shared_reader():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **arguments
        )
    if arguments:
        drop_unknown_tokens(tokenizer, path)
    if not tokenizer.chat_template:
        fix = "use an instruction-tuned model, or add chat_template.jinja to it"
        raise UserError(path, "it has no chat template", fix)
    if tokenizer.eos_token_id is None:
        raise UserError(path, "it names no end-of-turn token", "set eos_token in its tokenizer")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = _free_padding(tokenizer, path)
    tokenizer.padding_side = "right"
    return tokenizer


def _free_padding(tokenizer: PreTrainedTokenizerBase, path: Path) -> str:
    """Return a token that can pad; UserError if only the end-of-turn token is left."""
    vocabulary = tokenizer.get_vocab()
    for token in PAD_CANDIDATES:
        if token in vocabulary and token != tokenizer.eos_token:
            return token
    what = "it has no padding token apart from the end-of-turn token"
    raise UserError(path, what, "set pad_token in its tokenizer")


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all tokens that end a generation, by llama.cpp's rule, so that every engine stops at the same ones."""
    vocabulary = tokenizer.get_vocab()
    return sorted(
        {tokenizer.eos_token_id}
        | {vocabulary[token] for token in END_TOKENS if token in vocabulary}
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write model (safetensors) and tokenizer as one directory, whole or not at all."""
    if hasattr(model.config, "quantization_config"):
        # A model read from GGUF still calls itself quantized; its weights are dense by now.
        del model.config.quantization_config
        model.hf_quantizer = None
    model.config._name_or_path = path.name
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    with staged(path) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for file in temporary.iterdir():
            file.chmod(0o644)
