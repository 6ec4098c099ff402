"""Send prepared folders to the Hugging Face hub.

The token is that of HF_TOKEN, or of `hf auth login`. HF_ENDPOINT names another server
with the same interface.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from huggingface_hub import HfApi, errors, get_token

from bula.errors import UserError
from bula.hub_access import FAILURES
from bula.publish.folders import CARD, Prepared
from bula.publish.validation import CARD_CLASSES

# Messages of the hub's client go on with advice that does not apply here.
MOST_CHARACTERS = 200
MESSAGE = "Publish {name} of bula"


def upload(folders: Sequence[Prepared], *, private: bool) -> list[str]:
    """Create the repositories, upload the folders, and return the address of each.

    The hub checks all cards, and all repositories must be as private as asked, before any file is
    sent. Raise UserError if the hub refuses something or cannot be reached.
    """
    if not get_token():
        what = "there is no token, so the hub takes nothing from you"
        raise UserError("HF_TOKEN", what, "set it to a token that may write, and run this again")
    api = HfApi()
    for prepared in folders:
        with hub_errors(prepared.repo_id):
            _validate(prepared)
    for prepared in folders:
        with hub_errors(prepared.repo_id):
            _create(api, prepared, private=private)
    addresses = []
    for prepared in folders:
        with hub_errors(prepared.repo_id):
            addresses.append(_send(api, prepared))
    return addresses


def _validate(prepared: Prepared) -> None:
    """Let the hub check the metadata of a card."""
    repo_type = prepared.part.repo_type
    card = CARD_CLASSES[repo_type].load(prepared.folder / CARD)
    try:
        card.validate(repo_type=repo_type)
    except ValueError as error:
        what = f"the hub refuses its metadata ({first_line(error)})"
        raise UserError(prepared.folder / CARD, what, "correct params.yaml") from error


def _create(api: HfApi, prepared: Prepared, *, private: bool) -> None:
    """Create a repository, or accept an existing one.

    The hub keeps an existing repository as public as it is, whatever the request says.
    """
    repo_type = prepared.part.repo_type
    # None keeps the default of an organization, which may be private.
    wish = True if private else None
    api.create_repo(prepared.repo_id, repo_type=repo_type, private=wish, exist_ok=True)
    info: Any = api.repo_info(prepared.repo_id, repo_type=repo_type)
    if private and not info.private:
        what = "the repository exists and is public, so nothing was uploaded"
        fix = "make it private on the hub, or choose another name"
        raise UserError(prepared.repo_id, what, fix)


def _send(api: HfApi, prepared: Prepared) -> str:
    """Upload one folder, and return the address of its commit."""
    info: Any = api.upload_folder(
        repo_id=prepared.repo_id,
        repo_type=prepared.part.repo_type,
        folder_path=prepared.folder,
        commit_message=MESSAGE.format(name=prepared.part.name),
    )
    return str(info.commit_url)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MOST_CHARACTERS]


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn a refusal of the hub or of the network into a UserError."""
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        what = f"the hub answered {status} ({first_line(error)})"
        fix = "check that HF_TOKEN may write to repositories of this owner"
        raise UserError(repo_id, what, fix) from error
    except FAILURES as error:
        what = f"the hub cannot be reached ({first_line(error)})"
        fix = "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and run this again"
        raise UserError(repo_id, what, fix) from error
