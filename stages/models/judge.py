"""Fetch the judge, check it, and write it."""

import shutil
import tempfile
from pathlib import Path

from bula.errors import UserError
from bula.files import staged
from bula.gguf_files import check_gguf_model, read_gguf
from bula.params import ApiModel, JudgeSource, Limits
from bula.prompts import DATE, to_messages
from bula.trial_example import TRIAL
from stages.models.downloads import locate_model
from stages.models.template import check_template

API_NOTE = "The judge is reached over the network; params.yaml names it.\n"


def fetch_judge(source: JudgeSource, path: Path, limits: Limits) -> None:
    """Fetch the judge, and write it as one GGUF file.

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
