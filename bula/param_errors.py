"""Say in plain words what is wrong with the values of params.yaml.

pydantic's own words name its classes, types and regular expressions.
"""

from collections.abc import Iterable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bula import param_types
from bula.errors import did_you_mean

Location = tuple[int | str, ...]

# A limit on the number of bad keys in one message.
MOST_LINES = 100
# The sections in which `kind` chooses one of several classes, and all values of `kind`.
UNIONS = {
    ("ingest", "base"),
    ("ingest", "judge"),
    ("ingest", "sources"),
    ("ingest", "benchmarks"),
    ("benchmark", "backend"),
    ("bertscore", "encoder"),
    ("preprocess", "encoder"),
    ("privacy", "names"),
}
UNION_TAGS = {
    *("wheel", "wheels", "hub", "directory", "api", "base", "none", "package"),
    *("demo", "files", "url"),
    *("hf", "vllm", "openai"),
    *("pairs", "chats"),
    *("one_column", "column_list"),
    *("choice_columns", "statement_columns"),
}
# Parts that pydantic adds to a location: the type of a value, and the mark of a key.
TYPES = ("constrained-str", "constrained-int", "constrained-float", "[key]")
# The first words of pydantic's messages about a wrong value.
EXPECTED = "Input should be "
WORDS = {
    "missing": "the key is missing",
    "model_type": f"{EXPECTED}a section with keys",
    "model_attributes_type": f"{EXPECTED}a section with keys",
    "dict_type": f"{EXPECTED}a section with keys",
    "union_tag_not_found": "the key kind is missing",
}
# What each pattern of param_types allows.
PATTERNS = {
    param_types.VARIANT_NAME: "a name of small letters, digits, _ and -",
    param_types.NAME: "a name of small letters, digits, _, - and .",
    param_types.TASK_NAME: "a name of letters, digits, _, - and .",
    param_types.FIGURE_NAME: "VARIANT.MEASURE, such as tuned.bits_per_character",
    param_types.TEMPLATE: "templates/NAME.jinja, or an empty text",
    param_types.URL: "an address that starts with http:// or https://",
    param_types.HUB_ID: "OWNER/NAME, as on the Hugging Face hub",
    param_types.SHA256: "a SHA-256 of 64 hexadecimal digits",
    param_types.REVISION: "a commit of 40 hexadecimal digits",
}


def error_lines(error: ValidationError) -> list[str]:
    """Return one line per bad key: dotted path, message and value."""
    details = error.errors(include_url=False)
    messages: dict[str, str] = {}
    found: dict[str, str] = {}
    for item in details:
        path = _dotted_path(item["loc"])
        message = _message(item, details)
        if path in messages:
            # A value of several types has one error per type.
            message = f"{messages[path]}, or {message.removeprefix(EXPECTED)}"
        messages[path] = message
        found[path] = _found(item)
    return [f"  {path or 'the file'}: {messages[path]}{found[path]}" for path in messages]


def _message(item: ErrorDetails, others: Iterable[ErrorDetails]) -> str:
    """Return what is wrong with one value."""
    kind = item["type"]
    context: Mapping[str, object] = item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no such key{_similar_key(item['loc'], others)}"
    if kind == "string_pattern_mismatch" and context["pattern"] in PATTERNS:
        return EXPECTED + PATTERNS[str(context["pattern"])]
    if kind == "union_tag_invalid" and context["discriminator"] == "'kind'":
        return f"kind should be one of {context['expected_tags']}, not {context['tag']!r}"
    return WORDS.get(kind) or item["msg"].removeprefix("Value error, ")


def _similar_key(location: Location, others: Iterable[ErrorDetails]) -> str:
    """Return a question for the most similar key that its section lacks."""
    *section, key = location
    missing = [
        str(item["loc"][-1])
        for item in others
        if item["type"] == "missing" and list(item["loc"][:-1]) == section
    ]
    return did_you_mean(str(key), missing)


def _found(item: ErrorDetails) -> str:
    """Return the value in brackets, or nothing for a section or list."""
    value = item["input"]
    if value is None:
        return " (found nothing)"
    return "" if isinstance(value, dict | list) else f" (found {_short(value)})"


def _dotted_path(location: Location) -> str:
    """Return the dotted path of a key in the file.

    pydantic inserts the `kind` that selected a class into a location, but the file has no such key.
    """
    inner: list[int | str] = []
    is_union = location[:2] in UNIONS
    may_be_tag = is_union
    for part in location[2:]:
        is_tag = may_be_tag and part in UNION_TAGS
        # A key behind a tag can have the name of another tag, such as `package`.
        may_be_tag = is_union and not is_tag
        if not is_tag and not _is_type(part):
            inner.append(part)
    return ".".join(map(str, [*location[:2], *inner]))


def _is_type(part: int | str) -> bool:
    """Return whether a part of a location is no key of the file."""
    return part in TYPES or str(part).startswith("literal[")


def _short(value: object) -> str:
    """Return a value as an error message shows it.

    Python cannot print integers of more than 4,300 digits.
    """
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"
    return repr(value)[:200]
