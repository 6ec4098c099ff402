"""Fill the folders that are uploaded: files, card, license and notices."""

import shutil
from pathlib import Path
from typing import NamedTuple

from bula.errors import UserError
from bula.files import staged, write_documents
from bula.model_cards import describe_base, legal_files, notice
from bula.params import Params
from bula.publish.cards import Origin, model_card
from bula.publish.data_set import data_set_card
from bula.publish.parts import (
    ALL_PARTS,
    TOKENIZER_FILES,
    Part,
    name_on_hub,
    published_files,
    repository,
)
from bula.publish.refusals import LICENSE, missing_license
from bula.publish.sources import hide_private

CARD = "README.md"
NOTICE = "NOTICE"


class Request(NamedTuple):
    """The published files and their names."""

    params: Params
    metrics: Path
    origin: Origin
    repo_id: str
    """Repository of the merged model; the other names start with it."""
    license_text: bytes
    """Text of the base model's license, or nothing where the files have it."""


class Prepared(NamedTuple):
    """A folder that is ready for its repository."""

    part: Part
    folder: Path
    repo_id: str
    open_point: str
    """What is missing before an upload, or an empty text."""


def prepare(part: Part, request: Request, out: Path) -> Prepared:
    """Write the folder of one part below `out`, completely or not at all."""
    folder = out / part.name
    documents = legal_documents(part, request)
    card = _card(part, request, sorted(documents))
    documents[CARD] = card.encode()
    with staged(folder) as temporary:
        for source, name in copied_files(part, request.params):
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # A copy, because an edited link would change the file in DVC's cache.
            shutil.copyfile(source, target)
        write_documents(temporary, documents)
    open_point = ""
    if part.repo_type == "model":
        base = describe_base(request.params.ingest.base)
        open_point = missing_license(base, documents.get(LICENSE, b""))
    return Prepared(part, folder, repository(part, request.repo_id), open_point)


def copied_files(part: Part, params: Params) -> list[tuple[Path, str]]:
    """Return each file that is copied, with its name in the repository.

    The adapter gets the tokenizer of the merged model, because its base on the hub may have another
    chat template, or none.
    """
    base = describe_base(params.ingest.base)
    found = [(part.source / name, name_on_hub(part, name, base)) for name in published_files(part)]
    if part.name == "adapter":
        merged = ALL_PARTS["merged"]
        for name in published_files(merged):
            if TOKENIZER_FILES.fullmatch(name.as_posix()):
                found.append((merged.source / name, name.as_posix()))
    return found


def legal_documents(part: Part, request: Request) -> dict[str, bytes]:
    """Return license, notice and use policy of a model folder.

    The rows of a data set name their own licenses.
    """
    if part.repo_type == "dataset":
        return {}
    documents = legal_files(part.source)
    documents[NOTICE] = _masked_notice(part, request.params, documents.get(NOTICE, b""))
    if request.license_text:
        documents[LICENSE] = request.license_text
    return documents


def _masked_notice(part: Part, params: Params, received: bytes) -> bytes:
    """Return a folder's NOTICE without the names of private sources.

    The notice of the base model follows ours, and stays. Raise UserError for a file that does not
    start with the notice of params.yaml.
    """
    own = notice(params).encode()
    if not received.startswith(own):
        what = "it does not start with the notice of params.yaml"
        raise UserError(part.source / NOTICE, what, "run `make repro`")
    return notice(hide_private(params)).encode() + received.removeprefix(own)


def _card(part: Part, request: Request, legal: list[str]) -> str:
    """Return the text of a folder's card."""
    if part.repo_type == "dataset":
        sources = request.params.ingest.sources
        return str(data_set_card(part, request.origin, request.repo_id, sources))
    return str(
        model_card(part, request.params, request.metrics, request.origin, request.repo_id, legal)
    )


def read_license(file: Path | None) -> bytes:
    """Return the license text that the user saved.

    It is empty without a file. Raise UserError if the file cannot be read or has no text.
    """
    if file is None:
        return b""
    fix = "save the license's own text there"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(file, "the file cannot be read as text", fix) from error
    if not text.strip():
        raise UserError(file, "the file is empty", fix)
    return text.encode()
