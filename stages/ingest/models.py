"""Check and write the base model and the judge."""

import shutil
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.files import staged
from bula.gguf_files import check_gguf_model, read_gguf
from bula.gguf_repairs import rope_factors
from bula.model_cards import legal_files
from bula.models import load_model, load_tokenizer, save_model
from bula.params import ApiModel, JudgeSource, Limits, ModelSource
from bula.prompts import DATE, TEMPLATE_ERRORS, encode, to_messages, unrenderable
from bula.records import Example
from stages.ingest.model_downloads import locate_model
from stages.ingest.own_template import name_end_of_turn, read_template
from stages.ingest.template import Chat, check_template

# The example that tries a chat template.
TRIAL = Example(
    id="0" * 16,
    source="trial",
    license="none",
    split="dev",
    question="Posso tomar sol?",
    answer="Sim, com protetor solar.",
)
API_NOTE = "The judge is reached over the network; params.yaml names it.\n"


def ingest_base(
    source: ModelSource, dtype: str, path: Path, limits: Limits, template: str = ""
) -> None:
    """Write the base model as a directory of safetensors in `dtype`.

    Its tokenizer can format chats and pad. A template file replaces the model's own chat template.
    Raise UserError if the model cannot be fetched or used.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = locate_model(source, Path(folder), limits)
        _refuse_scaled_rope(found)
        tokenizer = load_tokenizer(found, read_template(template))
        name_end_of_turn(tokenizer, template)
        try_template(tokenizer, str(found), limits.template_seconds)
        model = load_model(found, dtype)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            what = "its tokenizer has more tokens than it has embeddings"
            raise UserError(found, what, "use the tokenizer that belongs to the model")
        save_model(model.to(getattr(torch, dtype)), tokenizer, path, legal_files(found))


def _refuse_scaled_rope(file: Path) -> None:
    """Raise UserError for a GGUF file with RoPE frequency factors.

    A directory stores the rule that makes the factors (rope_parameters), and the rule does not
    follow from the factors.
    """
    if file.suffix == ".gguf" and rope_factors(file) is not None:
        what = "it scales its rotary frequencies, which a base model made of it would lose"
        raise UserError(file.name, what, "name the model's directory instead")


def try_template(tokenizer: PreTrainedTokenizerBase, where: str, seconds: int) -> None:
    """Raise UserError unless the chat template can be used.

    The template must render prompts and training examples.
    """
    try:
        template = tokenizer.get_chat_template()
    except TEMPLATE_ERRORS as error:
        raise unrenderable(where, error) from error
    prompt: Chat = to_messages(TRIAL.question)
    complete: Chat = [*prompt, {"role": "assistant", "content": TRIAL.answer}]
    variables = {**tokenizer.special_tokens_map, "date_string": DATE}
    check_template(where, template, variables, [prompt, complete], seconds)
    encode(tokenizer, TRIAL)


def ingest_judge(source: JudgeSource, path: Path, limits: Limits) -> None:
    """Write the judge as one GGUF file.

    For a judge behind an API write only a note. Raise UserError if the judge cannot be fetched or
    used.
    """
    with tempfile.TemporaryDirectory() as folder, staged(path) as temporary:
        temporary.mkdir()
        if isinstance(source, ApiModel):
            (temporary / "README.md").write_text(API_NOTE, encoding="utf-8")
            return
        file = _only_gguf(locate_model(source, Path(folder), limits))
        check_judge(file, limits.template_seconds)
        shutil.copyfile(file, temporary / "judge.gguf")


def _only_gguf(found: Path) -> Path:
    """Return the GGUF file of a judge. Raise UserError unless one exists."""
    files = [found] if found.is_file() else sorted(found.glob("*.gguf"))
    if len(files) != 1:
        what = f"a local judge is exactly one .gguf file, found {len(files)}"
        raise UserError(found, what, "name the file itself in ingest.judge")
    return files[0]


def check_judge(file: Path, seconds: int) -> None:
    """Raise UserError if a judge's GGUF file cannot be used.

    Its chat template is tried too, if it has one.
    """
    fields = check_gguf_model(file).fields
    template = fields.get("tokenizer.chat_template")
    if not isinstance(template, str):
        return
    tokens = read_gguf(file).fields["tokenizer.ggml.tokens"]
    variables = {"date_string": DATE}
    for name in ("bos", "eos"):
        token_id = fields.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token_id, int):
            variables[f"{name}_token"] = tokens.contents(token_id)
    check_template(str(file), template, variables, [to_messages(TRIAL.question)], seconds)
