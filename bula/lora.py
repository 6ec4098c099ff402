"""Build PEFT's LoraConfig for training, plans and benches."""

from peft import LoraConfig

from bula.params import Lora


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
