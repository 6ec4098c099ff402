"""Build PEFT's LoraConfig and check the modules that it names."""

import warnings
from typing import Literal

from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel

from bula.errors import UserError
from bula.params import Lora

# PEFT 0.21 still reads transformers' old name.
warnings.filterwarnings(
    "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
)


Targets = Literal["all-linear"] | list[str]


def lora_config(lora: Lora) -> LoraConfig:
    """Return the configuration of a causal language model's adapter."""
    targets = lora.target_modules
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def check_target_modules(model: PreTrainedModel, lora: Lora) -> None:
    """Raise a UserError if the model lacks a named target module.

    PEFT ignores an unknown name beside a known name, and would train fewer matrices.
    """
    if isinstance(lora.target_modules, str):
        return
    names = [name for name, _ in model.named_modules()]
    unknown = [target for target in lora.target_modules if not _is_module(target, names)]
    if unknown:
        missing = ", ".join(unknown)
        known = ", ".join(adaptable_modules(model))
        what = f"train.lora.target_modules names {missing}, and the base model has only {known}"
        raise UserError("params.yaml", what, "correct train.lora.target_modules")


def targets_in(model: PreTrainedModel, targets: Targets) -> Targets:
    """Return the target modules that a part of the base model has.

    If it has none, as layer 20 of a model with two layers, the last parts of the names stand for
    the same matrices of its layers.
    """
    if isinstance(targets, str):
        return targets
    names = [name for name, _ in model.named_modules()]
    found = [target for target in targets if _is_module(target, names)]
    return found or sorted({target.rpartition(".")[2] for target in targets})


def _is_module(target: str, names: list[str]) -> bool:
    """Return whether a target is a module's name or its end, as in PEFT."""
    return any(name == target or name.endswith(f".{target}") for name in names)


def adaptable_modules(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the linear layers' names, without the head."""
    head = model.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return sorted(found)
