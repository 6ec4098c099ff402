"""Find reasons why rows, weights or figures must not be published.

Nobody can take a published file back, so every doubt is a refusal. The user can lift one of them,
because the agreement with a source may allow to share the weights that its rows trained.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bula.model_cards import Base, license_text
from bula.params import CLOSED_LICENSES, DataSource, FilesSource, Params
from bula.privacy import find_personal_data
from bula.publish.parts import Part, published_files
from bula.records import read_rows, turn_texts

LICENSE = "LICENSE"


def private_sources(params: Params) -> dict[str, str]:
    """Return the sources whose rows must not be published, with the reason of each."""
    found = {}
    for source in params.ingest.sources:
        reasons = list(_private_reasons(source))
        if reasons:
            found[source.name] = " and ".join(reasons)
    return found


def _private_reasons(source: DataSource) -> Iterator[str]:
    """Yield each reason why the rows of a source are private."""
    if source.redistribution == "forbidden":
        yield f"redistribution: forbidden (license {source.license})"
    if isinstance(source, FilesSource):
        if source.names == "present":
            yield "names: present, so rows can contain people's names"
        for remote in sorted(_remotes(Path(source.path))):
            yield f"its .dvc file sends it only to the remote {remote}"


def _remotes(path: Path) -> set[str]:
    """Return the remotes that the .dvc files of a file or folder name."""
    files = [Path(f"{place}.dvc") for place in (path, *path.parents)]
    if path.is_dir():
        files += path.rglob("*.dvc")
    found = set()
    for file in files:
        if file.is_file():
            found |= {str(out["remote"]) for out in _outputs(file) if out.get("remote")}
    return found


def _outputs(file: Path) -> list[dict[str, Any]]:
    """Return the outputs of a .dvc file; a damaged file has an unknown remote."""
    try:
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        return list(content["outs"])
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return [{"remote": f"of the unreadable file {file}"}]


def source_problems(
    params: Params, parts: Iterable[Part], allowed: Collection[str]
) -> Iterator[str]:
    """Yield the problems of private sources.

    `allowed` names the sources whose agreement allows to publish weights. Nothing allows their
    rows.
    """
    private = private_sources(params)
    for part in parts:
        for name, reason in private.items():
            if part.name == "dataset":
                yield f"dataset: the source {name} is private ({reason}), so leave out this part"
            elif name not in allowed:
                yield (
                    f"{part.name}: the private source {name} ({reason}) trained these weights, and "
                    "they can repeat its rows; if its agreement allows to publish the weights, add "
                    f"--allow-weights {name}"
                )
    for name in sorted(set(allowed) - private.keys()):
        yield f"--allow-weights {name}: no private source has this name"


def license_problems(params: Params, parts: Iterable[Part]) -> Iterator[str]:
    """Yield the problem of a base model's license that does not allow derived weights."""
    name = params.ingest.base.license.lower()
    if name not in CLOSED_LICENSES and "-nd" not in name:
        return
    for part in parts:
        if part.name != "dataset":
            yield (
                f"{part.name}: the license of the base model ({name}) does not allow to publish "
                "weights made from it"
            )


def row_problems(part: Part, params: Params) -> Iterator[str]:
    """Yield the problems of the rows of the data set, without their text.

    They are a source or license that params.yaml does not state, and personal data.
    """
    licenses = {source.name: source.license for source in params.ingest.sources}
    counts: Counter[str] = Counter()
    for name in published_files(part):
        for row in read_rows(part.source / name):
            source = str(row.get("source"))
            if licenses.get(source) != row.get("license"):
                counts["rows with a source or license that params.yaml does not state"] += 1
            for text in turn_texts(row):
                kinds = {finding.kind for finding in find_personal_data(text)}
                counts.update(f"texts with personal data ({kind})" for kind in kinds)
    for what, count in sorted(counts.items()):
        yield f"dataset: {count} {what}"


def missing_license(base: Base, license_file: bytes) -> str:
    """Return the problem of a license file that only names the license.

    It is an empty text for a complete license. The project writes such a file where the base model
    came without its license.
    """
    is_stub = base.license.lower() != "apache-2.0"
    if is_stub and license_file == license_text(base).encode():
        address = f" from {base.terms.url}" if base.terms.url else ""
        return (
            f"the {base.terms.name} asks for a copy of its text, and {LICENSE} only names it: save "
            f"the text{address}, and add --license-text FILE"
        )
    return ""
