"""Export the types of params.yaml as a JSON Schema for editors.

Editors show each key's meaning and mark bad values, since the first line of params.yaml names the
schema file. The schema cannot express the checks between keys, so `python -m bula.params` checks
more.

Run `python -m bula schema --write`.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from bula.commands.generated import update
from bula.params import Params

FILE = Path("params.schema.json")
DIALECT = "https://json-schema.org/draft/2020-12/schema"
# A line break inside a paragraph.
LINE_BREAK = re.compile(r"(?<!\n)\n(?!\n)")


def schema_text() -> str:
    """Return the JSON Schema of params.yaml as text."""
    header = {"$schema": DIALECT, "title": "params.yaml of bula"}
    generated = Params.model_json_schema()
    del generated["title"]
    content = _with_long_lines({**header, **generated})
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _with_long_lines(schema: Any) -> Any:
    """Return a schema whose descriptions have one line per paragraph."""
    if isinstance(schema, list):
        return [_with_long_lines(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _with_long_lines(value) for key, value in schema.items()}
    description = result.get("description")
    if isinstance(description, str):
        result["description"] = LINE_BREAK.sub(" ", description)
    return result


def schema(
    write: Annotated[bool, typer.Option("--write", help="Write the schema.")] = False,
) -> None:
    """Compare params.schema.json with the code, or write it."""
    update(FILE, schema_text(), command="schema", write=write)
