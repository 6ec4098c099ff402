"""Write model configurations that transformers 4.57 and vLLM read, too.

transformers 5 renamed keys of config.json and tokenizer_config.json. Version 4.57 ignores the new
keys: it computes with a RoPE base of 10,000, or does not find the class of the tokenizer. The old
keys are written beside the new keys. If transformers 5 would then read another configuration, they
are left out, and the model's card says so.
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

Config = dict[str, Any]
NEWER_FORM = (
    "config.json has the form of transformers 5 only. Version 4.57, and engines that use it, may "
    "compute other logits."
)
# Keys of tokenizer_config.json that describe how this machine loaded the tokenizer.
LOADING_KEYS = ("is_local", "local_files_only")
# The part of a rope_parameters that lies beside rope_scaling in the older form.
OUTSIDE_SCALING = {"rope_theta", "partial_rotary_factor"}
# Phi-3's older configuration allows exactly these keys.
LONGROPE_KEYS = ("short_factor", "long_factor")


def add_older_keys(folder: Path) -> bool:
    """Add the keys of transformers 4.57 to the configurations of a model directory.

    Return whether config.json has the keys. It stays as it was if this version of transformers
    would then read another model.
    """
    tokenizer_file = folder / "tokenizer_config.json"
    _write(tokenizer_file, extend_tokenizer_config(_read(tokenizer_file)))
    config_file = folder / "config.json"
    config = _read(config_file)
    extended = extend_config(config)
    if not _reads_alike(config, extended):
        return False
    _write(config_file, extended)
    return True


def note_newer_form(folder: Path, name: str) -> None:
    """Print that a model has no older keys, and write it into its card."""
    print(f"{name}: {NEWER_FORM}", flush=True)
    card = folder / "README.md"
    if card.exists():
        text = card.read_text(encoding="utf-8")
        card.write_text(f"{text}\n## Versions of transformers\n\n{NEWER_FORM}\n", encoding="utf-8")


def extend_config(config: Config) -> Config:
    """Return a model's configuration with the older keys beside the newer keys."""
    extended = {**config, **_older_rope_keys(config)}
    if "dtype" in config:
        extended["torch_dtype"] = config["dtype"]
    if isinstance(config.get("text_config"), dict):
        extended["text_config"] = extend_config(config["text_config"])
    return extended


def _older_rope_keys(config: Config) -> Config:
    """Return rope_theta, rope_scaling and their like for rope_parameters.

    A model with windows has parameters for each kind of layer.
    """
    parameters = config.get("rope_parameters") or {}
    full = parameters.get("full_attention") or parameters
    sliding = parameters.get("sliding_attention")
    if "rope_theta" not in full:
        return {}
    keys = {"rope_theta": full["rope_theta"], "rope_scaling": _scaling(full, config)}
    if "partial_rotary_factor" in full:
        keys["partial_rotary_factor"] = full["partial_rotary_factor"]
    if sliding and sliding["rope_theta"] != full["rope_theta"]:
        keys["rope_local_base_freq"] = sliding["rope_theta"]
    return keys


def _scaling(parameters: Config, config: Config) -> Config | None:
    """Return rope_scaling in its older form, or None for plain RoPE."""
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return None
    if kind == "longrope" and "original_max_position_embeddings" in config:
        return {"type": kind, **{key: parameters[key] for key in LONGROPE_KEYS}}
    return {key: value for key, value in parameters.items() if key not in OUTSIDE_SCALING}


def _reads_alike(config: Config, extended: Config) -> bool:
    """Return whether transformers reads every value of `config` from `extended`, too."""
    before = AutoConfig.for_model(**_copy(config)).to_dict()
    after = AutoConfig.for_model(**_copy(extended)).to_dict()
    # Phi-3's older configuration needs this second name of rope_type.
    (after.get("rope_parameters") or {}).pop("type", None)
    return all(after.get(key) == value for key, value in before.items())


def extend_tokenizer_config(config: Config) -> Config:
    """Return a tokenizer's configuration under names that both versions know."""
    renamed = {key: value for key, value in config.items() if key not in LOADING_KEYS}
    if renamed.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5 keeps this name as an alias.
        renamed["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(renamed.get("extra_special_tokens"), list):
        renamed["additional_special_tokens"] = renamed.pop("extra_special_tokens")
    return renamed


def _copy(config: Config) -> Config:
    """Return a deep copy, because transformers changes what it reads."""
    copied: Config = json.loads(json.dumps(config))
    return copied


def _read(file: Path) -> Config:
    """Return the object of a file that transformers has just written."""
    config: Config = json.loads(file.read_text(encoding="utf-8"))
    return config


def _write(file: Path, config: Config) -> None:
    """Write a configuration in the form in which transformers writes it."""
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
