"""Name the published folders, their files and their repositories."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from bula.errors import UserError
from bula.model_cards import LEGAL_FILES, Base, describe_base, model_name
from bula.params import Params

PartName = Literal["adapter", "merged", "gguf", "dataset"]
PARTS: tuple[PartName, ...] = get_args(PartName)
# The owner in a card that is written before a repository is chosen.
NO_OWNER = "USER"
ADAPTER_GGUF = "adapter.gguf"


class Part(NamedTuple):
    """A folder that becomes one repository."""

    name: PartName
    source: Path
    """Output of the pipeline that has the files."""
    suffix: str
    """End of the repository's name."""
    repo_type: Literal["model", "dataset"]
    files: re.Pattern[str]
    """Names of the files that are published, beside the card and the legal files."""


TOKENIZER_FILES = re.compile(r"tokenizer[\w.-]*|special_tokens_map\.json|chat_template\.jinja")
ALL_PARTS = {
    "adapter": Part(
        "adapter",
        Path("models/adapter"),
        "-LoRA",
        "model",
        re.compile(r"adapter_(config\.json|model\.safetensors)"),
    ),
    "merged": Part(
        "merged",
        Path("models/merged"),
        "",
        "model",
        re.compile(
            rf"""
            (config|generation_config)\.json
            | model[\w.-]*\.safetensors(\.index\.json)?
            | {TOKENIZER_FILES.pattern}
            """,
            re.VERBOSE,
        ),
    ),
    "gguf": Part("gguf", Path("models/gguf"), "-GGUF", "model", re.compile(r"[\w.-]+\.gguf")),
    "dataset": Part(
        "dataset",
        Path("data/clean"),
        "-dataset",
        "dataset",
        re.compile(r"(train|dev)\.jsonl|validation/[A-E]\.jsonl"),
    ),
}
# Files of the sources that are never published: ids of single rows, and copies of rows.
UNPUBLISHED = re.compile(r"README\.md|(contamination|overlap|few_shot)\.jsonl")


def select_parts(names: Iterable[str]) -> list[Part]:
    """Return the parts with these names, in a fixed order.

    No name selects all parts. Raise UserError for an unknown name.
    """
    wanted = list(names) or PARTS
    for name in wanted:
        if name not in PARTS:
            raise UserError(f"--part {name}", "no such part", f"choose from {', '.join(PARTS)}")
    return [ALL_PARTS[name] for name in PARTS if name in wanted]


def needed_outputs(parts: Iterable[Part]) -> list[Path]:
    """Return the outputs of the pipeline that the folders of some parts contain.

    The adapter's folder has the tokenizer of the merged model.
    """
    found = {part.source for part in parts}
    if ALL_PARTS["adapter"].source in found:
        found.add(ALL_PARTS["merged"].source)
    return sorted(found)


def published_files(part: Part) -> list[Path]:
    """Return the files of a part, without card and legal files.

    The paths are relative to the source of the part. Raise UserError for a missing folder, or for
    a file that no rule names, because it may be private.
    """
    if not part.source.is_dir():
        fix = "run `make repro`, or fetch it by `dvc pull`"
        raise UserError(part.source, "the folder does not exist", fix)
    found = []
    for file in sorted(path for path in part.source.rglob("*") if path.is_file()):
        name = file.relative_to(part.source).as_posix()
        if part.files.fullmatch(name):
            found.append(Path(name))
        elif not (UNPUBLISHED.fullmatch(name) or LEGAL_FILES.fullmatch(name)):
            what = "no rule says that this file may be published"
            raise UserError(file, what, f"move it out of {part.source}")
    return found


def name_on_hub(part: Part, name: Path, base: Base) -> str:
    """Return the name of a file in its repository.

    A model in a GGUF file is often kept without its repository, so its file carries its name, which
    some licenses ask for, and its type in the hub's spelling.
    """
    if part.name != "gguf" or name.name == ADAPTER_GGUF:
        return name.as_posix()
    return f"{safe_name(model_name(base))}-{name.stem.upper()}.gguf"


def safe_name(name: str) -> str:
    """Return a name with the characters that the hub allows."""
    allowed = re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)
    return re.sub(r"[.-]*(\.\.|--)[.-]*", "-", allowed).strip("-.") or "bula"


def repository(part: Part, repo_id: str) -> str:
    """Return the repository of a part.

    Its name starts with the name of the merged model's repository.
    """
    return f"{repo_id}{part.suffix}"


def choose_repository(repo_id: str | None, params: Params) -> str:
    """Return the repository of the merged model.

    Without a choice, it has the model's name and no real owner. Raise UserError for a name that the
    hub's own rules or the license of the base model do not allow.
    """
    base = describe_base(params.ingest.base)
    chosen = repo_id or f"{NO_OWNER}/{safe_name(model_name(base))}"
    where = f"--repo-id {chosen}"
    owner, _, name = chosen.partition("/")
    if not owner or not name:
        raise UserError(where, "it names no owner", "write it as OWNER/NAME")
    prefix = base.terms.name_prefix
    if not name.startswith(prefix):
        what = f"the {base.terms.name} asks for a name that begins with {prefix!r}"
        raise UserError(where, what, f"name it {owner}/{prefix}-{name}")
    for part in ALL_PARTS.values():
        try:
            validate_repo_id(repository(part, chosen))
        except HFValidationError as error:
            what = f"the hub refuses this name ({str(error).splitlines()[0]})"
            raise UserError(where, what, "use letters, digits, '-', '_' and '.'") from error
    return chosen
