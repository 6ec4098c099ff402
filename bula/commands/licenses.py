"""Write the license of every locked package into NOTICE.

The licenses come from the metadata of the installed packages: the SPDX expression if a package
states one, otherwise its own words and its classifiers.

Run `python -m bula licenses`.
"""

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.utils import canonicalize_name

from bula.commands.generated import read_text, replace_section, write_text
from bula.errors import UserError

START = "Python packages (this list is written by `python -m bula licenses`)\n"
END = "End of the list of Python packages.\n"
# A pinned package in the lock, and the pin of torch in the Makefile.
PIN = re.compile(r"^(?:TORCH := )?([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


class Package(NamedTuple):
    """An installed package."""

    version: str
    license: str


def pinned(*texts: str) -> dict[str, str]:
    """Return the pinned version of each package by its name.

    The texts are those of the lock and the Makefile.
    """
    pins = [pin for text in texts for pin in PIN.findall(text)]
    return {canonicalize_name(name): version for name, version in sorted(pins)}


def spdx(text: str) -> str | None:
    """Return the text as an SPDX expression, or None."""
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def stated_license(expression: str, text: str, classifiers: list[str]) -> str:
    """Return the license in a package's metadata, on one line."""
    if expression:
        return expression
    lines = text.strip().splitlines() or ["not stated"]
    # Some packages put the complete text of the license into the field for its name.
    is_name = bool(text) and len(lines) == 1
    name = lines[0] if is_name else ""
    if known := spdx(name):
        return known
    names = [name, *_license_classifiers(classifiers)]
    distinct = dict.fromkeys(filter(None, names))
    return "; ".join(distinct) or lines[0]


def _license_classifiers(classifiers: list[str]) -> list[str]:
    """Return the last part of each license classifier."""
    return [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]


def installed(name: str) -> Package | None:
    """Return a package's version and license, or None if it is missing."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    expression = _field(found, "License-Expression")
    classifiers = found.metadata.get_all("Classifier") or []
    license_ = stated_license(expression, _field(found, "License"), classifiers)
    # A plus sign separates the name of the build from the version.
    version = found.version.partition("+")[0]
    return Package(version, license_)


def _field(distribution: metadata.Distribution, name: str) -> str:
    """Return the first value of a metadata field, or an empty text."""
    values = distribution.metadata.get_all(name) or [""]
    return str(values[0])


def section(pins: Mapping[str, str]) -> str:
    """Return one line per pinned package.

    A UserError names a package that is installed in another version, or missing.
    """
    return "".join(_line(name, version) for name, version in pins.items())


def _line(name: str, version: str) -> str:
    """Return the line of one package, with its license."""
    package = installed(name)
    if package is None or package.version != version:
        found = package.version if package else "nothing"
        what = f"{name} {version} is pinned, but {found} is installed"
        raise UserError("requirements.lock", what, "run `make setup`")
    return f"  {name} {version}: {package.license}\n"


def with_section(notice: str, lines: str) -> str:
    """Return NOTICE with the lines between its two marks."""
    return replace_section("NOTICE", notice, (START, END), lines)


def licenses() -> None:
    """Write the licenses of all locked packages into NOTICE."""
    notice = Path("NOTICE")
    lock = read_text(Path("requirements.lock"))
    makefile = read_text(Path("Makefile"))
    pins = pinned(lock, makefile)
    text = with_section(read_text(notice), section(pins))
    write_text(notice, text)
    print(f"NOTICE: {len(pins)} packages")
