"""Write the code that loads a published folder and asks a question.

A test runs this code, and compares its prompt and its answer with those of the pipeline.
"""

import json
from pathlib import Path
from typing import Any

from bula.model_cards import Base
from bula.models import load_tokenizer
from bula.params import Generate
from bula.prompts import TEMPLATE_VARIABLES, has_system_role, to_messages

QUESTION = "Posso tomar dipirona com ibuprofeno?"
NO_HUB_BASE = "PATH/OF/THE/BASE/MODEL"

MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({repository})
model = AutoModelForCausalLM.from_pretrained({repository})
"""
ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, {repository})
# The tokenizer of this repository has the chat template of the training.
tokenizer = AutoTokenizer.from_pretrained({repository})
"""
ASK = """\
messages = {messages}
inputs = tokenizer.apply_chat_template({arguments})
output = model.generate(**inputs, {limits})
answer = output[0][inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""


def merged_code(repository: str, merged: Path, limits: Generate) -> str:
    """Return the code for the merged model in `repository`.

    `merged` is the folder whose tokenizer writes the prompt.
    """
    load = MERGED.format(repository=json.dumps(repository))
    return load + ask_code(merged, limits)


def adapter_code(repository: str, base: Base, merged: Path, limits: Generate) -> str:
    """Return the code for the adapter in `repository` on its base model."""
    arguments = [json.dumps(base.hub_id or NO_HUB_BASE)]
    if base.revision:
        arguments.append(f"revision={json.dumps(base.revision)}")
    names = {"repository": json.dumps(repository), "base": ", ".join(arguments)}
    return ADAPTER.format(**names) + ask_code(merged, limits)


def ask_code(merged: Path, limits: Generate) -> str:
    """Return the code that asks one question with the prompt of the pipeline."""
    tokenizer = load_tokenizer(merged)
    messages = to_messages(QUESTION, has_system=has_system_role(tokenizer))
    lines = [f"    {_python(message)},\n" for message in messages]
    template = str(tokenizer.chat_template)
    variables = {name: value for name, value in TEMPLATE_VARIABLES.items() if name in template}
    wanted: dict[str, Any] = {
        "add_generation_prompt": True,
        "return_dict": True,
        "return_tensors": "pt",
        **variables,
    }
    arguments = "".join(f"    {name}={_python(value)},\n" for name, value in wanted.items())
    return ASK.format(
        messages=f"[\n{''.join(lines)}]",
        arguments=f"\n    messages,\n{arguments}",
        limits=", ".join(_limits(limits)),
    )


def _python(value: object) -> str:
    """Return a value of JSON's types as Python code, with double quotes."""
    if isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _limits(limits: Generate) -> list[str]:
    """Return the arguments of `generate` that follow the rules of decoding."""
    rules = limits.decoding
    found = [f"max_new_tokens={limits.max_new_tokens}", f"do_sample={rules.temperature > 0}"]
    if rules.temperature > 0:
        found += [f"temperature={rules.temperature}", "top_k=0", "top_p=1.0"]
    if rules.repetition_penalty != 1:
        found.append(f"repetition_penalty={rules.repetition_penalty}")
    if rules.no_repeat_ngram:
        found.append(f"no_repeat_ngram_size={rules.no_repeat_ngram}")
    return found
