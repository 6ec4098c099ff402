"""Write the license of every locked package into NOTICE, between two marks.

The licenses come from the metadata of the installed packages: the SPDX expression where a package
states one, else its own words and its classifiers.

python -m bula licenses
"""

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.utils import canonicalize_name

from bula.errors import UserError
from bula.files import staged

START = "Python packages (this list is written by `python -m bula licenses`)\n"
END = "End of the list of Python packages.\n"
# One pin of the lock, and torch's in the Makefile.
PIN = re.compile(r"^(?:TORCH := )?([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


class Package(NamedTuple):
    """One installed package."""

    version: str
    license: str


def pinned(*texts: str) -> dict[str, str]:
    """Return the version of each package pinned in the lock and the Makefile."""
    pins = [pin for text in texts for pin in PIN.findall(text)]
    return {canonicalize_name(name): version for name, version in sorted(pins)}


def spdx(text: str) -> str | None:
    """Return the text as an SPDX expression, or None if it is not one."""
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def stated_license(expression: str, text: str, classifiers: list[str]) -> str:
    """Return what a package's metadata says about its license, on one line."""
    if expression:
        return expression
    lines = text.strip().splitlines() or ["not stated"]
    # Some packages put the whole text of the license where its name belongs.
    words = lines[0] if text and len(lines) == 1 else ""
    if known := spdx(words):
        return known
    names = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
    distinct = dict.fromkeys(word for word in (words, *names) if word)
    return "; ".join(distinct) or lines[0]


def installed(name: str) -> Package | None:
    """Return version and license of an installed package, None if it is not installed."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    expressions = found.metadata.get_all("License-Expression") or [""]
    texts = found.metadata.get_all("License") or [""]
    classifiers = found.metadata.get_all("Classifier") or []
    # The name of a build follows a plus sign.
    version = found.version.partition("+")[0]
    return Package(version, stated_license(expressions[0], texts[0], classifiers))


def section(pins: Mapping[str, str]) -> str:
    """Return one line per pinned package; UserError if another version is installed."""
    lines = []
    for name, version in pins.items():
        package = installed(name)
        if package is None or package.version != version:
            found = package.version if package else "nothing"
            what = f"{name} {version} is pinned, but {found} is installed"
            raise UserError("requirements.lock", what, "run `make setup`")
        lines.append(f"  {name} {version}: {package.license}\n")
    return "".join(lines)


def with_section(notice: str, lines: str) -> str:
    """Return NOTICE with the lines between its two marks."""
    if START not in notice or END not in notice.partition(START)[2]:
        what = f"the line {START.strip()!r} or {END.strip()!r} is missing"
        raise UserError("NOTICE", what, "restore both lines")
    before, _, rest = notice.partition(START)
    return before + START + lines + END + rest.partition(END)[2]


def licenses() -> None:
    """Write the licenses of all locked packages into NOTICE."""
    lock, makefile, notice = Path("requirements.lock"), Path("Makefile"), Path("NOTICE")
    pins = pinned(lock.read_text(encoding="utf-8"), makefile.read_text(encoding="utf-8"))
    text = with_section(notice.read_text(encoding="utf-8"), section(pins))
    with staged(notice) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"NOTICE: {len(pins)} packages")
