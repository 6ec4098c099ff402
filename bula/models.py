"""Load and save models and tokenizers.

A model is a directory or one GGUF file on this machine, and never a name on a hub. Its files are
checked before a library reads them, and its weights after.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from bula.errors import UserError, is_out_of_memory
from bula.files import make_readable, staged, write_documents
from bula.gguf_files import FETCH_AGAIN, check_gguf_model, shared_reader
from bula.hardware import compute_dtype, device
from bula.model_files import GET_MODEL, check_adapter, check_model
from bula.turn_ends import rendered_end

if TYPE_CHECKING:
    import torch
    from transformers import (
        BitsAndBytesConfig,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

# llama.cpp stops at these tokens, whatever the model's files say.
END_TOKENS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
)
# Padding tokens that some tokenizers define but do not name.
PAD_CANDIDATES = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>")
# Libraries raise these exceptions for some files that passed our own checks.
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


@contextmanager
def library_errors(path: Path) -> Iterator[None]:
    """Turn a library's error about the files in `path` into a UserError.

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
    """Return the UserError for a library's error, with its first line."""
    if is_out_of_memory(error):
        what = "this machine has too little memory for it"
        return UserError(path, what, "use a smaller model or a larger machine")
    if isinstance(error, ImportError):
        return UserError(path, f"a package is missing ({error})", "install it with pip")
    lines = str(error).strip().splitlines() or ["no message"]
    reason = f"{type(error).__name__}: {lines[0][:300]}"
    return UserError(path, f"it cannot be loaded ({reason})", FETCH_AGAIN)


def list_model_files(path: Path) -> list[Path]:
    """Return all files of a model, sorted by name.

    Raise a UserError if the model does not exist.
    """
    if not path.exists():
        raise UserError(path, "it does not exist", GET_MODEL)
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file())


def load_model(
    path: Path, dtype: str, *, weights: str = "full", attention: str = "sdpa"
) -> PreTrainedModel:
    """Load a model directory or GGUF file for evaluation, on the device.

    The weights are rounded to `dtype` (bfloat16 or float32). They are then widened to float32 where
    the machine computes in float32 (`compute_dtype`). GGUF weights are unpacked to `dtype`, so that
    the same arithmetic scores quantized and full models. If `weights` is int8 or nf4, bitsandbytes
    quantizes the linear layers, and the other layers have the precision of computing.

    Raise a UserError if the files are broken, incomplete or not finite.
    """
    import torch

    from bula.weight_checks import refuse_broken

    check_model(path)
    computed = getattr(torch, compute_dtype(dtype))
    loaded = getattr(torch, dtype) if weights == "full" else computed
    options = _format_options(path, weights, computed)
    model = _from_pretrained(path, dtype=loaded, attn_implementation=attention, **options)
    if weights == "full":
        # transformers refuses to move a model that bitsandbytes quantized.
        model.to(device())
    refuse_broken(model, path)
    if weights == "full" and computed == torch.float32:
        # Only widening is safe: a cast to bfloat16 would round the RoPE frequencies, too.
        model.float()
    return model.eval()


def _is_gguf(path: Path) -> bool:
    """Return whether a model is a GGUF file, and not a directory."""
    return path.suffix == ".gguf"


def _location(path: Path) -> dict[str, Any]:
    """Return the arguments that tell from_pretrained where the files are."""
    folder = path.parent if _is_gguf(path) else path
    location = {
        "pretrained_model_name_or_path": folder,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    if _is_gguf(path):
        location["gguf_file"] = path.name
    return location


def _format_options(path: Path, weights: str, computed: torch.dtype) -> dict[str, Any]:
    """Return the arguments of from_pretrained that depend on the files' format."""
    if _is_gguf(path):
        return {}
    if weights == "full":
        return {"use_safetensors": True}
    return {
        "use_safetensors": True,
        "quantization_config": _bitsandbytes(weights, computed),
        "device_map": {"": device()},
    }


def _bitsandbytes(weights: str, computed: torch.dtype) -> BitsAndBytesConfig:
    """Return the configuration of bitsandbytes for int8 or nf4."""
    from transformers import BitsAndBytesConfig

    if weights == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=weights,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed,
    )


def _from_pretrained(path: Path, **options: Any) -> PreTrainedModel:
    """Return a model with exactly the weights of its files.

    Raise a UserError if the files have other tensors than the model needs.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    from bula.gguf_repairs import apply_rope_factors, model_parts
    from bula.weight_checks import refuse_incomplete

    with library_errors(path), shared_reader():
        # The report then lists mismatched shapes, which transformers only logs.
        options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        if _is_gguf(path):
            parts = model_parts(path, options["dtype"])
            model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(parts["config"])]
            _choose_attention(parts["config"], options)
            model, report = model_class.from_pretrained(None, **parts, **options)
            apply_rope_factors(model, path)
            # Without a path, from_pretrained calls the model "None".
            model.config._name_or_path = model.name_or_path = str(path.parent)
        else:
            _choose_attention(AutoConfig.from_pretrained(**_location(path)), options)
            model, report = AutoModelForCausalLM.from_pretrained(**_location(path), **options)
    refuse_incomplete(path, report)
    model.generation_config.use_cache = True
    return model


def _choose_attention(config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Replace SDPA by eager attention in place, where a class lacks SDPA.

    Gemma 2's soft caps have no place in SDPA, and transformers would refuse the model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    supports_sdpa = getattr(model_class, "_supports_sdpa", True)
    if options["attn_implementation"] == "sdpa" and not supports_sdpa:
        options["attn_implementation"] = "eager"


def load_config(path: Path) -> PreTrainedConfig:
    """Load the configuration of a model directory.

    Raise a UserError if it is broken.
    """
    from transformers import AutoConfig

    check_model(path)
    with library_errors(path):
        config: PreTrainedConfig = AutoConfig.from_pretrained(**_location(path))
    return config


def load_adapted(base: Path, adapter: Path, dtype: str) -> PreTrainedModel:
    """Load a base model with its adapter, unmerged, for evaluation.

    Raise a UserError if the adapter is not a complete LoRA adapter of this base.
    """
    from peft import PeftModel

    from bula.weight_checks import refuse_other_adapter

    shapes = check_adapter(adapter)
    model = load_model(base, dtype)
    with library_errors(adapter), warnings.catch_warnings():
        # refuse_other_adapter names the missing matrices.
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        # PEFT 0.21 still reads transformers' old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = PeftModel.from_pretrained(model, adapter, is_trainable=False)
    refuse_other_adapter(model, adapter, shapes)
    # Dropout would hide a wrong merge.
    return model.eval()


def load_encoder(path: Path, key: str = "bertscore.encoder") -> PreTrainedModel:
    """Load an encoder directory in float32, on the device.

    `key` is the parameter that names the encoder, for messages.

    The heads of other tasks and the pooler are left out, because no hidden state needs them. Raise
    a UserError if the files are broken, incomplete or not finite, or of an encoder-decoder model.
    """
    import torch
    from transformers import AutoModel

    from bula.weight_checks import refuse_broken, refuse_incomplete

    if load_config(path).is_encoder_decoder:
        fix = f"name a model that is only an encoder, such as BERT, in {key}"
        raise UserError(path, "it is an encoder-decoder model", fix)
    with library_errors(path):
        model, report = AutoModel.from_pretrained(
            **_location(path),
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    refuse_incomplete(path, report | {"missing_keys": missing, "unexpected_keys": []})
    if hasattr(model, "pooler"):
        model.pooler = None
    model.to(device())
    refuse_broken(model, path)
    return model.eval()


def load_plain_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory, chat template or not.

    Raise a UserError if it is broken.
    """
    from transformers import AutoTokenizer

    check_model(path)
    with library_errors(path):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**_location(path))
    return tokenizer


def load_tokenizer(path: Path, template: str = "") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory or GGUF file.

    The text `template` replaces the chat template of the files, unless it is empty.
    Raise a UserError if it is broken, or has no chat template, end-of-turn token or padding token.
    """
    from bula.gguf_repairs import drop_unknown_tokens

    check_model(path)
    with library_errors(path), shared_reader():
        tokenizer = _tokenizer_class(path).from_pretrained(**_location(path))
    if _is_gguf(path):
        drop_unknown_tokens(tokenizer, path)
    if template:
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        fix = "use an instruction-tuned model, or add chat_template.jinja to it"
        raise UserError(path, "it has no chat template", fix)
    if tokenizer.eos_token_id is None:
        raise UserError(path, "it names no end-of-turn token", "set eos_token in its tokenizer")
    if _may_end_turns(tokenizer, tokenizer.pad_token):
        tokenizer.pad_token = _free_padding(tokenizer, path)
    tokenizer.padding_side = "right"
    return tokenizer


def _tokenizer_class(path: Path) -> Any:
    """Return the class that reads a model's tokenizer.

    AutoTokenizer refuses GGUF files whose architecture transformers cannot configure, although
    the general class reads their tokenizers.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if not _is_gguf(path):
        return AutoTokenizer
    family = check_gguf_model(path).fields["general.architecture"]
    is_known = family in GGUF_CONFIG_ARCHS or family in GGUF_SUPPORTED_ARCHITECTURES
    return AutoTokenizer if is_known else PreTrainedTokenizerFast


def _named_ends(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that the chat template may end a turn with.

    Phi 3 ends turns with <|end|>, and both its padding and its EOS token are <|endoftext|>.
    """
    template = str(tokenizer.chat_template)
    return [token for token in END_TOKENS if token in template] or [str(tokenizer.eos_token)]


def _may_end_turns(tokenizer: PreTrainedTokenizerBase, token: str | None) -> bool:
    """Return whether the template may end a turn with a token.

    The template is not rendered here, because ingest first tries it in a child process.
    """
    is_written = token is not None and token in str(tokenizer.chat_template)
    return token is None or is_written or token in _named_ends(tokenizer)


def _free_padding(tokenizer: PreTrainedTokenizerBase, path: Path) -> str:
    """Return a padding token that is not the end-of-turn token.

    The mask of the padding would otherwise hide the end of each turn. Raise a UserError if the
    vocabulary has no such token.
    """
    vocabulary = tokenizer.get_vocab()
    for token in PAD_CANDIDATES:
        if token in vocabulary and not _may_end_turns(tokenizer, token):
            return token
    what = "it has no padding token apart from the end-of-turn token"
    raise UserError(path, what, "set pad_token in its tokenizer")


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of all end-of-turn tokens, sorted.

    The rule is llama.cpp's, so that every engine stops at the same tokens, and the token with which
    the chat template ends an answer is added. ingest makes that token the EOS token if llama.cpp
    does not know it.
    """
    vocabulary = tokenizer.get_vocab()
    names = [*END_TOKENS, rendered_end(tokenizer)]
    known = [vocabulary[token] for token in names if token in vocabulary]
    return sorted({tokenizer.eos_token_id, *known})


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    documents: Mapping[str, bytes] | None = None,
) -> None:
    """Write model (safetensors) and tokenizer as one complete directory.

    The directory appears under its name only when all files are written. It also contains the
    `documents`, by name. It loads in transformers 4.57, too, or a line says that it does not.
    """
    from bula.older_configs import add_older_keys, note_newer_form

    if hasattr(model.config, "quantization_config"):
        # A model from a GGUF file still calls itself quantized, but its weights are now dense.
        del model.config.quantization_config
        model.hf_quantizer = None
    model.config._name_or_path = path.name
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with staged(path) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_documents(temporary, documents or {})
        if not add_older_keys(temporary):
            note_newer_form(temporary, path.name)
        make_readable(temporary)
