"""Define the types of single values in params.yaml.

Each string type has a pattern, so that no value can mean anything to a shell, to pip or to a
library that loads code. Each number type has an upper bound, so that a mistyped or hostile value
cannot fill the memory or run for years.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bula.records import MOST_SHOTS

# Hashes and revisions.
SHA256 = r"^[0-9a-f]{64}$"
Sha256 = Annotated[str, Field(pattern=SHA256)]
REVISION = r"^[0-9a-f]{40}$"
Revision = Annotated[str, Field(pattern=REVISION)]

# Names of variants, sources, tasks and configurations. DVC reads a variant's name as one part of
# a dotted path, so that name has no dot.
VARIANT_NAME = r"^[a-z0-9][a-z0-9_-]*$"
NAME = r"^[a-z0-9][a-z0-9_.-]*$"
TASK_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
VariantName = Annotated[str, Field(pattern=VARIANT_NAME, max_length=80)]
Name = Annotated[str, Field(pattern=NAME, max_length=80)]
TaskName = Annotated[str, Field(pattern=TASK_NAME, max_length=120)]
# A variant and a measure, as `bula review` names a figure.
FIGURE_NAME = r"^[a-z0-9][a-z0-9_-]*\.[A-Za-z0-9][A-Za-z0-9_.-]*$"
FigureName = Annotated[str, Field(pattern=FIGURE_NAME, max_length=200)]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]

# Packages on PyPI: a name by PEP 508, and a version by PEP 440 without epoch and local part.
PACKAGE = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
RELEASE = r"[0-9]+(\.[0-9]+)*"
RELEASE_SUFFIXES = r"((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?"
Package = Annotated[str, Field(pattern=PACKAGE, max_length=120)]
Version = Annotated[str, Field(pattern=f"^{RELEASE}{RELEASE_SUFFIXES}$", max_length=60)]

# Repositories on the Hugging Face hub. HubPart is the name of a configuration or a split of a
# data set, such as "train[:10%]".
HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
HUB_ID = f"^{HUB_NAME}/{HUB_NAME}$"
HubId = Annotated[str, Field(pattern=HUB_ID, max_length=200)]
HUB_PART = r"^[A-Za-z0-9_][A-Za-z0-9_.:%\[\]+ -]*$"
HubPart = Annotated[str, Field(pattern=HUB_PART, max_length=120)]
LICENSE = r"^[A-Za-z0-9][A-Za-z0-9 .,+()/_-]*$"
License = Annotated[str, Field(pattern=LICENSE, max_length=120)]

# Models and their layers: the name that a server has for a model, and a dotted module name.
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
ModelName = Annotated[str, Field(pattern=MODEL_NAME, max_length=200)]
MODULE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$"
Module = Annotated[str, Field(pattern=MODULE, max_length=120)]

# Addresses without credentials and without a fragment.
HOST = r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])"
PORT = r"(:[0-9]{1,5})?"
URL_PATH = r"(/[A-Za-z0-9._~!$&()*+,;=:@%/?-]*)?"
URL = f"^https?://{HOST}{PORT}{URL_PATH}$"
Url = Annotated[str, Field(pattern=URL, max_length=2000)]

# Names of columns and cells of a filter. Tabs and line feeds are allowed, since spreadsheets have
# them; other control characters and invisible marks are not.
COLUMN = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"
Column = Annotated[str, Field(pattern=COLUMN, max_length=200)]
Encoding = Literal[
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "cp1252",
    "latin-1",
    "iso-8859-15",
    "cp850",
    "cp858",
    "cp860",
    "cp437",
    "mac-roman",
]
# Keys of a JSON object that lead to its rows, and names of files with wildcards.
KEYS = r"^[^\x00-\x1f\x7f-\x9f.]+(\.[^\x00-\x1f\x7f-\x9f.]+)*$"
Keys = Annotated[str, Field(pattern=KEYS, max_length=200)]
GLOB = r"^[\w*?][\w .()+,@=/*?\[\]-]*$"
Glob = Annotated[str, Field(pattern=GLOB, max_length=200)]

# Numbers.
MOST = 10**9
Positive = Annotated[int, Field(gt=0, le=MOST)]
Natural = Annotated[int, Field(ge=0, le=MOST)]
Few = Annotated[int, Field(gt=0, le=256)]
Layer = Annotated[int, Field(ge=0, le=1000)]
Workers = Annotated[int, Field(ge=0, le=256)]
GpuLayers = Literal["all"] | Natural
Bytes = Annotated[int, Field(gt=0, le=2**40)]
Seconds = Annotated[int, Field(gt=0, le=10**7)]
Resamples = Annotated[int, Field(gt=0, le=10**6)]
Permutations = Annotated[int, Field(ge=200_000, le=10**7)]
Shots = Annotated[int, Field(ge=0, le=MOST_SHOTS)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Kappa = Annotated[float, Field(ge=-1, le=1)]
Dollars = Annotated[float, Field(ge=0, le=10**6)]
Share = Annotated[float, Field(ge=0, lt=1)]
Alpha = Annotated[float, Field(gt=0, lt=0.5)]
Finite = Annotated[float, Field(ge=-MOST, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, le=MOST)]
Coverage = Annotated[float, Field(gt=0.5, lt=1)]

# A path has letters and digits of any script, spaces, and these signs.
PATH = re.compile(r"[\w.][\w .()+,@=/-]*")
LONGEST_PATH = 400
# The longest file name, in bytes, that common file systems allow.
LONGEST_PART = 255


def _check_signs(path: str) -> str:
    """Return the path; raise ValueError for signs with a special meaning."""
    signs_are_allowed = PATH.fullmatch(path.removeprefix("/"))
    is_too_long = len(path) > LONGEST_PATH
    if is_too_long or not signs_are_allowed:
        raise ValueError(
            "a path may have only letters, digits, spaces and . _ - ( ) + , @ = /, "
            f"and at most {LONGEST_PATH} characters"
        )
    parts = PurePosixPath(path).parts
    longest = max((len(part.encode()) for part in parts), default=0)
    if longest > LONGEST_PART:
        raise ValueError(f"each part of a path has at most {LONGEST_PART} bytes")
    return path


def _check_inside(path: str) -> str:
    """Return the path; raise ValueError if it leaves the repository."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise ValueError("a path starts at the repository and stays inside it: no leading /, no ..")
    hidden = [part for part in parts if part.startswith(".")]
    if hidden:
        raise ValueError("a path cannot name a hidden file or folder, such as .git or .env")
    return _check_signs(path)


# The labels of the demo corpus, which git has.
DEMO_LABELS = "data/demo/labels.jsonl"

# Chat templates lie in one folder, which DVC tracks; an empty text names none.
TEMPLATE = r"^(templates/[A-Za-z0-9][A-Za-z0-9._-]*\.jinja)?$"
TemplatePath = Annotated[str, Field(pattern=TEMPLATE, max_length=120)]

AnyPath = Annotated[str, AfterValidator(_check_signs)]
RepositoryPath = Annotated[str, AfterValidator(_check_inside)]


def _check_labels(path: str) -> str:
    """Return the path; raise ValueError if dvc.yaml does not list its place."""
    parts = PurePosixPath(path).parts
    if path != DEMO_LABELS and parts[:2] != ("data", "labels"):
        raise ValueError(f"labels lie in data/labels/, or in {DEMO_LABELS}")
    return path


LabelPath = Annotated[RepositoryPath, AfterValidator(_check_labels)]
