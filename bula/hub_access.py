"""Ask the Hugging Face hub whether a repository may be read.

A gated repository shows its list of files to everybody, and refuses only its files.
"""

from typing import Any, Literal

from huggingface_hub import HfApi, errors, get_hf_file_metadata, get_token, hf_hub_url

from bula.errors import UserError

# HTTPError belongs to the HTTP library of the hub's client.
HTTP_ERROR = errors.HTTPError  # type: ignore[attr-defined]
FAILURES = (OSError, errors.HFValidationError, HTTP_ERROR)
# Pages of a repository that everybody may read.
OPEN_FILES = (".gitattributes", "README.md", "LICENSE")
# Most characters of a library's message that an error repeats.
MOST_CHARACTERS = 200

Kind = Literal["model", "dataset"]


def check_repository(kind: Kind, name: str, revision: str, seconds: float) -> str:
    """Ask for the header of one file of a pinned repository.

    Return the file's name. `seconds` limits each of the two requests. Raise UserError if the hub
    cannot be reached, does not know the repository, or refuses the user's token.
    """
    where = f"{kind} {name} at revision {revision[:12]}"
    try:
        info: Any = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=seconds)
        file = _gated_file([entry.rfilename for entry in info.siblings or []])
        url = hf_hub_url(name, file, repo_type=kind, revision=revision)
        get_hf_file_metadata(url, token=get_token() or False, timeout=seconds)
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise _gated(where, page) from error
    except errors.RevisionNotFoundError as error:
        what = "the hub knows the repository, but not the revision"
        raise UserError(where, what, "correct `revision` in params.yaml") from error
    except errors.RepositoryNotFoundError as error:
        what = "the hub knows no such repository, or shows it only to another account"
        raise UserError(where, what, "correct `id` in params.yaml, or set HF_TOKEN") from error
    except FAILURES as error:
        what = f"the hub cannot be reached ({_reason(error)})"
        fix = "check the network, HF_ENDPOINT and HF_HUB_OFFLINE"
        raise UserError(where, what, fix) from error
    return file


def _gated(where: str, page: str) -> UserError:
    """Return the error of a repository that the user's token does not open."""
    if get_token():
        fix = f"accept the license at {page} with the account of HF_TOKEN, or set another token"
        return UserError(where, "it is gated, and the hub refuses the token", fix)
    fix = f"accept the license at {page}, and set HF_TOKEN to a token of that account"
    return UserError(where, "it is gated, and HF_TOKEN is not set", fix)


def _gated_file(names: list[str]) -> str:
    """Return a file that a gated repository shows only to accounts with access."""
    gated = [name for name in names if name not in OPEN_FILES]
    return next(iter(gated or names), "README.md")


def _reason(error: Any) -> str:
    """Return the first line of a library's message, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MOST_CHARACTERS]
