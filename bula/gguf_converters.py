"""Choose llama.cpp's converter, or run auto-round with all converters.

auto-round carries llama.cpp's converters, one class per architecture. Several classes share a
module, and some modules name architectures that the package gguf 0.19 does not have yet. Python
then imports none of a module's classes, although only the new ones need the new names.

    python -m bula.gguf_converters --model DIRECTORY --format gguf:q4_k_m ...
"""

import importlib
import logging
import runpy
from typing import Any

import gguf

CONVERSION = "auto_round.export.export_to_gguf.conversion"
# The names that auto-round 0.16.1 uses and gguf 0.19.0 lacks.
NEW_ARCHITECTURES = (
    "BAILINGMOE3",
    "COHERE2MOE",
    "DEEPSEEK32",
    "DEEPSEEK4",
    "DFLASH",
    "EAGLE3",
    "GEMMA4_ASSISTANT",
    "GRANITE_SWITCH",
    "HY_V3",
    "KIMI_K3",
    "LAGUNA",
    "MELLUM",
    "MINIMAX01",
    "MINIMAXM3",
    "MUSE_GLIMMER",
    "NANBEIGE",
    "POCKETTTS",
    "QWEN3TTS",
    "TALKIE",
)
# These warnings of the converters change nothing: a key is written again with its final value,
# transformers 5 writes the RoPE type of a model without scaling, and no text is a pair of texts.
HARMLESS = (
    "Duplicated key name",
    "Unknown RoPE type: default",
    "Unknown separator token",
)
LOGGERS = ("gguf.gguf_writer", "gguf.vocab", "hf-to-gguf")


def silence_harmless_warnings() -> None:
    """Hide the converters' harmless warnings; every other one is still shown."""
    for name in LOGGERS:
        # A logger adds the same filter only once.
        logging.getLogger(name).addFilter(_is_no_harmless_warning)


def _is_no_harmless_warning(record: logging.LogRecord) -> bool:
    """Return whether a log record is shown."""
    return not record.getMessage().startswith(HARMLESS)


def name_new_architectures() -> None:
    """Give gguf the names of new architectures, without a value.

    The other classes of their modules can then be imported. The converters of these architectures
    fail as before, because no tensor names belong to them.
    """
    for name in NEW_ARCHITECTURES:
        if name not in gguf.MODEL_ARCH.__members__:
            setattr(gguf.MODEL_ARCH, name, None)


def find_converter(architecture: str) -> Any:
    """Return the converter's class for a Hugging Face architecture, or None."""
    silence_harmless_warnings()
    name_new_architectures()
    # Imported here because the converters take seconds to load and log to the console.
    conversion = importlib.import_module(CONVERSION)
    if architecture not in conversion.TEXT_MODEL_MAP:
        return None
    importlib.import_module(f"{CONVERSION}.{conversion.TEXT_MODEL_MAP[architecture]}")
    return conversion.ModelBase.from_model_architecture(architecture)


if __name__ == "__main__":
    silence_harmless_warnings()
    name_new_architectures()
    runpy.run_module("auto_round", run_name="__main__", alter_sys=True)
