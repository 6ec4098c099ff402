"""Fetch the base model, check it, and write it."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from bula.errors import UserError
from bula.gguf_repairs import rope_factors
from bula.model_cards import received_legal_files
from bula.models import end_token_ids, load_model, load_tokenizer, save_model
from bula.params import Limits, ModelSource
from bula.prompts import (
    TEMPLATE_ERRORS,
    TEMPLATE_VARIABLES,
    encode,
    to_chat,
    to_messages,
    unrenderable,
)
from bula.trial_example import TRIAL
from stages.models.downloads import locate_model
from stages.models.own_template import name_end_of_turn, name_unknown_end, read_template
from stages.models.template import Chat, check_template

# Keys of a generation configuration that do not change an answer.
NEUTRAL_KEYS = {
    "_from_model_config",
    "output_attentions",
    "output_hidden_states",
    "transformers_version",
    "use_cache",
}


def fetch_base(
    source: ModelSource, dtype: str, path: Path, limits: Limits, template: str = ""
) -> None:
    """Fetch the base model, and write it as a directory of safetensors in `dtype`.

    Its tokenizer can format chats and pad. A template file replaces the model's own chat template.
    Raise UserError if the model cannot be fetched or used.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = locate_model(source, Path(folder), limits)
        _refuse_scaled_rope(found)
        tokenizer = load_tokenizer(found, read_template(template))
        # No template is rendered in this process before a child process has rendered it in time.
        try_template(tokenizer, str(found), limits.template_seconds)
        name_end_of_turn(tokenizer, template)
        encode(tokenizer, TRIAL)
        name_unknown_end(tokenizer)
        model = load_model(found, dtype)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            what = "its tokenizer has more tokens than it has embeddings"
            raise UserError(found, what, "use the tokenizer that belongs to the model")
        normalise_generation(model, tokenizer)
        legal = received_legal_files(found)
        save_model(model.to(getattr(torch, dtype)), tokenizer, path, legal)


def normalise_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a model answer greedily and stop at every end token, in place.

    The files of some models penalize repetitions, sample, or name another end token than their
    template writes, and each server that reads them would answer differently. The changes are
    printed.
    """
    before = model.generation_config.to_diff_dict()
    greedy = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_token_ids(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.generation_config = greedy
    model.config.get_text_config().eos_token_id = greedy.eos_token_id
    model.config.eos_token_id = greedy.eos_token_id
    if changes := list_changes(before, greedy.to_diff_dict()):
        print(f"models: generation_config of the base: {', '.join(changes)}", flush=True)


def list_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a phrase for each key of a generation configuration that changes."""
    changes = []
    for key in sorted((before.keys() | after.keys()) - NEUTRAL_KEYS):
        old = before.get(key)
        new = after.get(key)
        if old == new or [old] == new:
            continue
        changes.append(f"{key} {old} removed" if key not in after else f"{key} {old} -> {new}")
    return changes


def _refuse_scaled_rope(file: Path) -> None:
    """Raise UserError for a GGUF file with RoPE frequency factors.

    A directory stores the rule that makes the factors (rope_parameters), and the rule does not
    follow from the factors.
    """
    if file.suffix == ".gguf" and rope_factors(file) is not None:
        what = "it scales its rotary frequencies, which a base model made of it would lose"
        raise UserError(file.name, what, "name the model's directory instead")


def try_template(tokenizer: PreTrainedTokenizerBase, where: str, seconds: int) -> None:
    """Raise UserError unless a child process can render the chat template in time.

    The template must render prompts and complete chats.
    """
    try:
        template = tokenizer.get_chat_template()
    except TEMPLATE_ERRORS as error:
        raise unrenderable(where, error) from error
    variables = {**tokenizer.special_tokens_map, **TEMPLATE_VARIABLES}
    try:
        check_template(where, template, variables, trial_chats(has_system=True), seconds)
    except UserError:
        # A template without a system role must render the chats that fold the system prompt.
        check_template(where, template, variables, trial_chats(has_system=False), seconds)


def trial_chats(*, has_system: bool) -> list[Chat]:
    """Return the prompt and the complete chat that try a template."""
    prompt = to_messages(TRIAL.question, has_system=has_system)
    complete = to_chat(TRIAL.question, TRIAL.answer, has_system=has_system)
    return [prompt, complete]
