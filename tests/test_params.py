"""Check params.yaml, the profiles, their JSON Schema, and refused values."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench.clones import ROOT
from bula.__main__ import app
from bula.commands.schema import schema_text
from bula.errors import UserError
from bula.params import (
    ChatColumns,
    Columns,
    DemoSource,
    FileForm,
    Params,
    Section,
    Source,
    Tabular,
    Task,
    TextReading,
    Variant,
    load_params,
    parse_params,
)
from tests.conftest import run

DEFAULT = (ROOT / "profiles/smollm2-135m.yaml").read_text(encoding="utf-8")
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def as_index(part: str) -> str | int:
    """Return one part of a dotted key, with list positions as integers."""
    return int(part) if part.isdigit() else part


def changed_params(changes: dict[str, Any]) -> Any:
    """Return the default parameters with changed values, by dotted key.

    The value ... removes a key.
    """
    params = YAML(typ="safe").load(DEFAULT)
    for dotted, value in changes.items():
        *path, last = map(as_index, dotted.split("."))
        section = params
        for part in path:
            section = section[part]
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return params


def changed(changes: dict[str, Any]) -> str:
    """Return the default parameters with changed values as YAML text."""
    stream = StringIO()
    YAML(typ="safe").dump(changed_params(changes), stream)
    return stream.getvalue()


SERVED = {
    "model": "models/base",
    "engine": "openai",
    "base_url": "http://127.0.0.1:8000/v1",
    "served_model": "m",
}


def test_a_served_variant_is_valid() -> None:
    variant = parse_params(changed({"variants.api": SERVED}), "some.yaml").variants["api"]
    assert (variant.base_url, variant.served_model) == ("http://127.0.0.1:8000/v1", "m")


def complaint(changes: dict[str, Any]) -> str:
    """Return the error message for changed default parameters."""
    with pytest.raises(UserError) as caught:
        parse_params(changed(changes), "some.yaml")
    return str(caught.value)


# The files


def test_params_yaml_equals_the_embedded_profile_byte_for_byte() -> None:
    # The committed file is compared, because users edit the file in the folder.
    command = ["git", "show", "HEAD:params.yaml"]
    committed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert committed == (ROOT / "profiles/smollm2-135m.yaml").read_bytes()


def test_there_are_three_profiles() -> None:
    names = [path.stem for path in PROFILES]
    assert names == ["gemma-3-270m", "llama-3.2-1b", "smollm2-135m"]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: str(path.stem))
def test_loading_a_profile_adds_drops_and_converts_nothing(path: Path) -> None:
    # Keys that a file may leave out, such as few_shot, are not in the dump.
    assert load_params(path).model_dump(exclude_unset=True) == read_yaml(path)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: str(path.stem))
def test_a_profile_has_the_sections_of_params_in_their_order(path: Path) -> None:
    assert list(read_yaml(path)) == list(Params.model_fields)


def test_loaded_parameters_cannot_change() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        params.train.learning_rate = 1.0


# The sections


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    """Yield every subclass of a section."""
    for section in base.__subclasses__():
        yield section
        yield from sections(section)


SECTIONS = [section for section in sections() if section.__module__ == "bula.params"]
FIELDS = [
    pytest.param(section, name, id=f"{section.__name__}.{name}")
    for section in SECTIONS
    for name in section.model_fields
]


def is_described(field: FieldInfo) -> bool:
    """Return whether a field has a description, or its class has one.

    The class describes a nested section, and a `kind` with one possible value.
    """
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return bool(vars(annotation).get("__doc__"))
    if get_origin(annotation) is Literal and len(get_args(annotation)) == 1:
        return True
    return bool(field.description and field.description.strip())


def test_the_list_of_sections_is_complete() -> None:
    names = {section.__name__ for section in SECTIONS}
    assert names >= {"Params", "Train", "Lora", "WheelModel", "HubTask", "Variant"}
    assert len(FIELDS) > 80


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: str(section.__name__))
def test_a_section_has_a_docstring_and_refuses_unknown_keys(section: type[Section]) -> None:
    assert vars(section).get("__doc__")
    assert section.model_config["extra"] == "forbid"
    assert section.model_config["frozen"]


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_a_field_has_a_description(section: type[Section], name: str) -> None:
    assert is_described(section.model_fields[name])


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_a_field_has_no_default_which_dvc_could_not_see(section: type[Section], name: str) -> None:
    # DVC tracks the complete entries of lists and variants, so it sees a missing key of an entry.
    optional = {"few_shot", "columns", "base_url", "served_model"}
    optional |= {"context", "split", "answers", "turns", "rows", "sheet", "pattern"}
    optional |= {"names_waiver"}
    has_optional = issubclass(section, Task | Variant | Columns | ChatColumns | FileForm)
    may_be_missing = optional if has_optional else set()
    assert section.model_fields[name].is_required() or name in may_be_missing


# Bad values

SECOND = {
    "model": "another",
    "base_url": "http://127.0.0.1:8080/v1",
    "usd_per_million_input": 0.0,
    "usd_per_million_output": 0.0,
    "max_usd": 0.0,
}
OWN_FILES = {
    "kind": "files",
    "name": "mine",
    "names": "removed",
    "path": "data/sources/Perguntas (março) 2.csv",
    "encoding": "utf-8",
    "columns": {"question": "Pergunta do paciente", "answer": "r", "specialty": "", "kind": ""},
    "filter": {},
    "limit": 0,
    "role": "split",
    "license": "proprietary",
    "redistribution": "forbidden",
}
NAMES_MODEL = {"kind": "directory", "path": "data/ner", "license": "mit"}
BAD_VALUES: dict[str, Any] = {
    "seed": -1,
    "dtype": "float16",
    "ingest.sources.0.name": "Demo Corpus",
    "preprocess.dev_share": 1.0,
    "train.learning_rate": "fast",
    "train.lora.r": 0,
    "train.lora.target_modules": ["q_proj", "model.embed_tokens", "lm_head"],
    "train.warmup": 0.1,
    "judge.retries": ...,
    "merge": ...,
    "extra": {"a": 1},
    "variants.tuned.engine": "ollama",
}


def complaints_by_key() -> dict[str, str]:
    """Return the line of the error message about each bad value."""
    _, *lines, _ = complaint(BAD_VALUES).split("\n")
    by_key = {line.split(":")[0].strip(): line for line in lines}
    assert len(by_key) == len(lines)
    return by_key


def test_one_message_lists_all_bad_keys() -> None:
    first, *_, fix = complaint(BAD_VALUES).split("\n")
    assert first == "some.yaml: 12 bad values:"
    assert fix == "Correct them; bula/params.py says what each key means."
    assert complaints_by_key().keys() == BAD_VALUES.keys()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("seed", ["greater than or equal to 0", "(found -1)"]),
        ("dtype", ["'bfloat16' or 'float32'", "(found 'float16')"]),
        ("ingest.sources.0.name", ["(found 'Demo Corpus')"]),
        ("preprocess.dev_share", ["less than 1", "(found 1.0)"]),
        ("train.learning_rate", ["valid number", "(found 'fast')"]),
        ("train.lora.r", ["greater than 0", "(found 0)"]),
        ("train.lora.target_modules", ["embed_tokens, lm_head cannot be adapted"]),
        ("train.warmup", ["no such key", "(found 0.1)"]),
        ("judge.retries", ["the key is missing"]),
        ("merge", ["the key is missing"]),
        ("extra", ["no such key"]),
        ("variants.tuned.engine", ["'llama.cpp', 'vllm' or 'openai'", "(found 'ollama')"]),
    ],
)
def test_a_bad_value_is_reported_with_its_rule_and_the_value(key: str, words: list[str]) -> None:
    line = complaints_by_key()[key]
    assert [word for word in words if word not in line] == []


def test_a_mistyped_key_is_reported_twice_as_unknown_and_as_missing() -> None:
    message = complaint({"train.max_steps": ..., "train.maxsteps": 10})
    assert "  train.max_steps: the key is missing" in message.split("\n")
    similar = "there is no such key (did you mean max_steps?) (found 10)"
    assert f"  train.maxsteps: {similar}" in message.split("\n")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"judge.base_url": "ftp://x"},
            "judge.base_url: Input should be 'local', or an address that starts with http:// or "
            "https:// (found 'ftp://x')",
        ),
        ({"train": None}, "train: Input should be a section with keys (found nothing)"),
        ({"generate.gpu_layers": "no"}, "generate.gpu_layers: Input should be 'all', or a valid "),
        (
            {"variants.UPPER": {"model": "x", "engine": "transformers"}},
            "variants.UPPER: Input should be a name of small letters, digits, _ and - (found 'UP",
        ),
        (
            {"ingest.sources.0.name": "A B"},
            "ingest.sources.0.name: Input should be a name of small letters, digits, _, - and . ",
        ),
        ({"judge.second": {"model": "m"}}, "judge.second.base_url: the key is missing"),
    ],
)
def test_a_message_has_no_words_of_pydantic(changes: dict[str, Any], line: str) -> None:
    message = complaint(changes)
    assert f"\n  {line}" in message
    assert not re.search(r"literal|constrained|dictionary|instance|\^", message)


@pytest.mark.parametrize(
    "key",
    [
        "unknown",
        "train.unknown",
        "train.lora.unknown",
        "ingest.base.unknown",
        "ingest.sources.0.columns",
    ],
)
def test_an_unknown_key_is_an_error_at_every_depth(key: str) -> None:
    message = complaint({key: 1})
    assert message.startswith("some.yaml: 1 bad value:\n")
    assert f"{key.split('.')[-1]}: there is no such key (found 1)" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"compare.pairs": [{"variant": "tuned", "baseline": "bse"}]},
            "compare.pairs has 'bse', which variants does not name",
        ),
        (
            {"compare.pairs": [{"variant": "base", "baseline": "base"}]},
            "compare.pairs compares base with itself",
        ),
        (
            {
                "compare.pairs": [
                    {"variant": "tuned", "baseline": "base"},
                    {"variant": "tuned", "baseline": "base"},
                ]
            },
            "compare.pairs has tuned_minus_base twice",
        ),
        (
            {"compare.primary": ["rougeL_f", "rougeL_f"]},
            "compare.primary names a measure twice",
        ),
        (
            {"judge.items_per_set": 9, "generate.items_per_set": 8},
            "judge.items_per_set exceeds generate.items_per_set",
        ),
        (
            {"judge.second": {**SECOND, "model": "smollm2-135m-instruct-q4_1"}},
            "judge.second.model is judge.model, so it is no second judge",
        ),
        (
            {"judge.second": {**SECOND, "max_usd": 1.0}},
            "judge.second.max_usd needs judge.second.usd_per_million_input",
        ),
        ({"judge.second": {**SECOND, "base_url": "local"}}, "judge.second.base_url: "),
        ({"judge.second": {**SECOND, "model": "$(rm)"}}, "judge.second.model: "),
        (
            {"ingest.sources.0": OWN_FILES | {"names": "present"}},
            "source mine has names: present, and no model finds names; set privacy.names to a",
        ),
        (
            {"judge.base_url": "https://api.openai.com/v1"},
            "judge.base_url is local exactly when ingest.judge brings a model (any kind but api); "
            "for a server, set ingest.judge to {kind: api, license: NAME}",
        ),
        (
            {"ingest.judge": {"kind": "api", "license": "terms"}},
            "judge.base_url is local exactly when ingest.judge brings a model",
        ),
        ({"train.eval_steps": 35, "train.max_steps": 34}, "train: eval_steps exceeds max_steps"),
        (
            {"train.save_steps": 3, "train.log_steps": 2, "train.eval_steps": 2},
            "save_steps is not a multiple of log_steps",
        ),
        (
            {"train.keep": "last", "train.max_steps": 35},
            "keep: last needs max_steps to be a multiple of eval_steps",
        ),
        ({"train.compile": True}, "compile needs kernels: trl"),
        (
            {"train.compile": True, "train.kernels": "trl", "train.base_weights": "nf4"},
            "compile needs base_weights: full",
        ),
        (
            {"train.compile": True, "train.kernels": "trl", "train.activation_offload": True},
            "compile needs activation_offload: false",
        ),
        ({"train.liger": True}, "liger needs kernels: trl"),
        (
            {"generate.decoding.no_repeat_ngram": 3},
            "generate.decoding.no_repeat_ngram is not 0, but the engines of quantized (llama.cpp) "
            "have no such rule",
        ),
        (
            {"variants.api": SERVED, "generate.decoding.no_repeat_ngram": 3},
            "but the engines of api (openai), quantized (llama.cpp) have no such rule",
        ),
        (
            {"variants.api": SERVED, "generate.decoding.repetition_penalty": 1.1},
            "generate.decoding.repetition_penalty is not 1, but the API of engine openai has no "
            "such rule (api), and answers under different rules cannot be compared; set it to 1.0",
        ),
        (
            {"variants.api": {"model": "models/base", "engine": "openai", "served_model": "m"}},
            "variants.api: engine openai needs base_url and served_model",
        ),
        (
            {"variants.api": SERVED | {"engine": "transformers"}},
            "variants.api: base_url and served_model are for engine openai",
        ),
        (
            {"variants.api": SERVED | {"model": "models/a.gguf"}},
            "variants.api: engine llama.cpp is for .gguf files",
        ),
        (
            {"preprocess.dev_share": 0.5, "preprocess.validation_share": 0.1},
            "preprocess: dev_share and five times validation_share",
        ),
        (
            {"benchmark.task_limits": {"bula_contrast": 0, "bula_contrst": 10}},
            "benchmark: task_limits names bula_contrst, which tasks does not name; remove it there",
        ),
        (
            {"ingest.benchmarks.1.name": "bula_medmcqa"},
            "ingest: benchmarks repeat the name bula_medmcqa",
        ),
        ({"variants": {}}, "variants: "),
        ({"variants.UPPER": {"model": "x", "engine": "vllm"}}, "variants.UPPER"),
        ({"ingest.base.kind": "zip"}, "ingest.base: kind should be one of 'wheel', "),
        ({"quantize.types": ["q4_k_m", "q3"]}, "quantize.types.1: "),
        (
            {"variants.half": {"model": "models/gguf/bf16.gguf", "engine": "llama.cpp"}},
            "variants.half needs models/gguf/bf16.gguf, which quantize.types does not list",
        ),
    ],
)
def test_contradicting_values_are_refused(changes: dict[str, Any], words: str) -> None:
    assert words in complaint(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"judge.items_per_set": 8, "generate.items_per_set": 8},
        {
            "judge.base_url": "https://api.openai.com/v1",
            "ingest.judge": {"kind": "api", "license": "terms"},
        },
        {"judge.second": SECOND},
        {"train.eval_steps": 34, "train.max_steps": 34},
        {"train.packing": True, "train.attention": "sdpa"},
        {"train.compile": True, "train.kernels": "trl", "train.packing": True},
        {"compare.pairs": [{"variant": "quantized", "baseline": "base"}]},
        {"compare.pairs": []},
        {"ingest.sources.0": OWN_FILES | {"names": "present", "names_waiver": True}},
        {
            "ingest.sources.0": OWN_FILES | {"names": "present"},
            "privacy.names": NAMES_MODEL,
        },
        {"preprocess.dev_share": 0.4, "preprocess.validation_share": 0.1},
    ],
)
def test_values_at_a_limit_are_allowed(changes: dict[str, Any]) -> None:
    parse_params(changed(changes), "some.yaml")


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_at_least_0_and_below_1(share: float) -> None:
    assert "train.warmup_share: " in complaint({"train.warmup_share": share})


# YAML as DVC reads it


@pytest.mark.parametrize(
    ("written", "number"), [("2e-4", 0.0002), ("5E-5", 0.00005), ("1e-3", 0.001)]
)
def test_a_number_with_an_exponent_and_no_point_is_a_number(written: str, number: float) -> None:
    text = DEFAULT.replace("learning_rate: 0.001", f"learning_rate: {written}")
    assert parse_params(text, "some.yaml").train.learning_rate == number


def test_no_and_on_are_words_and_not_booleans() -> None:
    # PyYAML implements YAML 1.1, which reads `no` as false.
    first = "  - bula_medmcqa\n"
    words = "  - no\n  - on\n  - null_task\n"
    params = parse_params(DEFAULT.replace(first, words), "some.yaml")
    assert params.benchmark.tasks[:3] == ["no", "on", "null_task"]


@pytest.mark.parametrize("text", ["seed: [1", "seed: 1\nseed: 2\n", "a: b: c"])
def test_invalid_yaml_is_reported_with_file_and_line(text: str) -> None:
    with pytest.raises(UserError, match=r"(?s)some\.yaml: not valid YAML .*line 1"):
        parse_params(text, "some.yaml")


def test_a_repeated_key_is_reported_without_advice_for_programs() -> None:
    with pytest.raises(UserError) as caught:
        parse_params("seed: 1\nseed: 2\n", "some.yaml")
    assert 'found duplicate key "seed"' in str(caught.value)
    assert "https://" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n"])
def test_a_file_without_sections_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"some\.yaml: 1 bad value:\n.*a section with keys"):
        parse_params(text, "some.yaml")


# The command


def check(cwd: Path, *files: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of `python -m bula.params`."""
    result = run([sys.executable, "-m", "bula.params", *files], cwd=cwd)
    return result.returncode, result.stdout, result.stderr


def test_the_command_lists_the_valid_files() -> None:
    assert check(ROOT) == (0, "params.yaml: valid\n", "")
    files = [f"profiles/{path.name}" for path in PROFILES]
    assert check(ROOT, *files) == (0, "".join(f"{file}: valid\n" for file in files), "")


def test_a_missing_file_is_reported_in_one_line_with_the_fix(tmp_path: Path) -> None:
    elsewhere = "Run this in the repository's folder, which has dvc.yaml.\n"
    assert check(tmp_path) == (1, "", f"params.yaml: the file is missing. {elsewhere}")
    (tmp_path / "dvc.yaml").touch()
    advice = "Copy one of profiles/*.yaml to it.\n"
    assert check(tmp_path) == (1, "", f"params.yaml: the file is missing. {advice}")
    assert check(tmp_path, "no.yaml") == (1, "", f"no.yaml: the file is missing. {advice}")


def test_a_bad_file_is_reported_without_a_traceback(tmp_path: Path) -> None:
    text = changed({"seed": -1, "train.max_steps": 0})
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    code, output, errors = check(tmp_path, "bad.yaml")
    assert (code, output) == (1, "")
    lines = errors.splitlines()
    assert lines[0] == "bad.yaml: 2 bad values:"
    assert [line.split(":")[0] for line in lines[1:-1]] == ["  seed", "  train.max_steps"]


@pytest.mark.parametrize("license_", ["proprietary", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "unknown"])
def test_a_closed_license_needs_redistribution_forbidden(license_: str) -> None:
    fields = {"kind": "demo", "name": "mine", "path": "data/demo", "license": license_}
    words = f"license {license_} does not allow redistribution; set redistribution: forbidden"
    with pytest.raises(ValidationError, match=words):
        DemoSource.model_validate({**fields, "redistribution": "allowed"})
    source = DemoSource.model_validate({**fields, "redistribution": "forbidden"})
    assert source.license == license_


# Hostile strings


HOSTILE = [
    "$(id)",
    "`id`",
    "a;id",
    "a\nid",
    "a'b",
    'a"b',
    "../x",
    "/etc/x",
    "-x",
    "a\x1b[31m",
    "a|b",
    "~/x",
    "a\u202eb",
]
# Every string of the default parameters, except those with a closed list of values.
STRINGS = [
    "ingest.base.package",
    "ingest.base.version",
    "ingest.base.wheel_sha256",
    "ingest.base.member",
    "ingest.base.sha256",
    "ingest.base.license",
    "ingest.chat_template",
    "ingest.sources.0.name",
    "ingest.sources.0.path",
    "ingest.sources.0.license",
    "ingest.benchmarks.0.name",
    "ingest.benchmarks.0.path",
    "preprocess.languages.0",
    "train.launch",
    "benchmark.tasks.0",
    "judge.model",
    "judge.base_url",
    "calibrate.gold",
    "safety.questions",
    "safety.labels",
    "compare.pairs.0.variant",
    "compare.pairs.0.baseline",
    "compare.primary.0",
    "calibrate.attacks",
    "variants.base.model",
    "variants.base.engine",
    "variants.base.base_url",
    "variants.base.served_model",
    "compute.scheduler",
    "compute.tracker",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", STRINGS)
def test_a_hostile_string_is_refused_in_every_key(key: str, text: str) -> None:
    message = complaint({key: text})
    section, _, name = key.rpartition(".")
    # For a `kind`, the message may name only the section.
    assert name in message or section in message


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_of_a_variant_is_refused(text: str) -> None:
    assert "variants" in complaint(
        {"variants": {text: {"model": "models/base", "engine": "transformers"}}}
    )


def test_a_name_of_a_variant_has_no_dot_which_dvc_would_split_at() -> None:
    assert "variants" in complaint(
        {"variants": {"v1.2": {"model": "models/base", "engine": "transformers"}}}
    )


@pytest.mark.parametrize(
    "package",
    [
        "evil @ http://127.0.0.1:1/evil-1.0.tar.gz",
        "a[b]",
        "a>1",
        "git+https://x/y",
        "./x",
        "--index-url",
    ],
)
def test_an_address_or_option_is_refused_as_a_package(package: str) -> None:
    assert "ingest.base.package" in complaint({"ingest.base.package": package})


@pytest.mark.parametrize(
    "version", ["1.0#x", "1.0 --pre", "*", ">=1", "1!2", "1.0+local", "1.0/../x"]
)
def test_an_inexact_version_is_refused(version: str) -> None:
    assert "ingest.base.version" in complaint({"ingest.base.version": version})


@pytest.mark.parametrize(
    "version", ["1.0", "2026.10.11549", "0.1.2", "1.0rc1", "1.0.post2", "1.0.dev3"]
)
def test_versions_of_the_package_index_are_allowed(version: str) -> None:
    parse_params(changed({"ingest.base.version": version}), "some.yaml")


def test_a_path_may_have_accents_and_spaces() -> None:
    parse_params(changed({"ingest.sources.0": OWN_FILES}), "some.yaml")


CHATS = {"messages": "messages", "specialty": "", "kind": ""}


def test_columns_may_name_messages_instead_of_question_and_answer() -> None:
    params = parse_params(
        changed({"ingest.sources.0": OWN_FILES | {"columns": CHATS}}), "some.yaml"
    )
    [source, *_] = params.ingest.model_dump(exclude_defaults=True)["sources"]
    assert source["columns"] == CHATS


PAIRS = {"question": "q", "answer": "a", "specialty": "", "kind": ""}


@pytest.mark.parametrize(
    "changes",
    [
        {"question": ["instruction", "input"]},
        {"question": "data.pergunta", "answer": "data.respostas", "answers": "each"},
        {"context": "trecho", "split": "conjunto"},
    ],
)
def test_columns_may_join_nest_and_name_a_context_and_a_split(changes: dict[str, Any]) -> None:
    columns = PAIRS | changes
    params = parse_params(
        changed({"ingest.sources.0": OWN_FILES | {"columns": columns}}), "some.yaml"
    )
    [source, *_] = params.ingest.model_dump(exclude_defaults=True)["sources"]
    assert source["columns"] == columns


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({**CHATS, "question": "q"}, "columns.question: there is no such key"),
        ({"messages": "m", "kind": ""}, "sources.0.columns.specialty: the key is missing"),
        (
            {"question": "q", "specialty": "", "kind": ""},
            "sources.0.columns.answer: the key is missing",
        ),
        ({**CHATS, "messages": ""}, "sources.0.columns.messages: String should have at least 1"),
        ({**PAIRS, "question": []}, "sources.0.columns.question: List should have at least 1"),
        ({**PAIRS, "question": ""}, "sources.0.columns.question: String should have at least 1"),
        ({**PAIRS, "question": 3}, "sources.0.columns.question: Input should be a valid string"),
    ],
)
def test_wrong_columns_are_reported_for_one_kind_only(columns: dict[str, str], words: str) -> None:
    message = complaint({"ingest.sources.0": OWN_FILES | {"columns": columns}})
    assert message.startswith("some.yaml: 1 bad value:\n")
    assert words in message


def test_a_path_with_an_invisible_character_is_refused() -> None:
    source = {**OWN_FILES, "path": "data/sources/a\u200bb.csv"}
    assert "path" in complaint({"ingest.sources.0": source})


def test_own_files_must_say_whether_they_have_names() -> None:
    changes = {"ingest.sources.0": dict(OWN_FILES), "ingest.sources.0.names": ...}
    assert "names" in complaint(changes)


def test_only_a_model_of_kind_directory_may_lie_outside_the_repository() -> None:
    elsewhere = {"kind": "directory", "path": "/srv/models/llama", "license": "mit"}
    parse_params(changed({"ingest.base": elsewhere}), "some.yaml")
    assert "variants.base.model" in complaint({"variants.base.model": "/srv/models/llama"})


@pytest.mark.parametrize(
    "backend",
    [
        {"kind": "huggingface"},
        {"kind": "hf", "pretrained": "evil/model"},
        {"kind": "hf", "trust_remote_code": True},
        {
            "kind": "vllm",
            "gpu_memory_utilization": 0.9,
            "max_model_len": 1024,
            "tensor_parallel_size": 1,
            "pretrained": "x",
        },
    ],
)
def test_a_backend_with_another_model_or_code_is_refused(backend: dict[str, Any]) -> None:
    assert "benchmark.backend" in complaint({"benchmark.backend": backend})


@pytest.mark.parametrize(
    "backend",
    [
        {"kind": "hf"},
        {
            "kind": "vllm",
            "gpu_memory_utilization": 0.9,
            "max_model_len": 1024,
            "tensor_parallel_size": 1,
        },
        {
            "kind": "openai",
            "base_url": "http://127.0.0.1:8000/v1",
            "model": "tuned",
            "num_concurrent": 4,
            "timeout_seconds": 60,
        },
    ],
    ids=["hf", "vllm", "openai"],
)
def test_each_documented_backend_is_allowed(backend: dict[str, Any]) -> None:
    parse_params(changed({"benchmark.backend": backend}), "some.yaml")


@pytest.mark.parametrize("section", ["generate", "judge"])
def test_gpu_layers_are_a_number_or_all(section: str) -> None:
    key = f"{section}.gpu_layers"
    edits: list[dict[str, Any]] = [{key: layers, "device": "cuda"} for layers in (0, 7, "all")]
    for edit in edits:
        parse_params(changed(edit), "some.yaml")
    wrong: list[dict[str, Any]] = [{key: layers} for layers in (-1, 1.5, "some", True)]
    for edit in wrong:
        assert key in complaint(edit)


def test_loader_workers_are_at_most_256() -> None:
    for workers in (0, 256):
        parse_params(changed({"compute.loader_workers": workers}), "some.yaml")
    for workers in (-1, 257):
        assert "compute.loader_workers" in complaint({"compute.loader_workers": workers})


@pytest.mark.parametrize("key", ["generate.gpu_layers", "judge.gpu_layers"])
def test_gpu_layers_are_refused_on_a_cpu(key: str) -> None:
    assert "need device: cuda" in complaint({key: 7})


def test_vllm_is_refused_on_a_cpu() -> None:
    edit = {"variants.tuned": {"model": "models/merged", "engine": "vllm"}}
    assert "variants.tuned: engine vllm needs device: cuda" in complaint(edit)


def keys_of_numbers(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every number in a section."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from keys_of_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}"


@pytest.mark.parametrize("huge", [2**70, 1e300])
@pytest.mark.parametrize("key", list(keys_of_numbers(changed_params({}))))
def test_every_number_has_an_upper_bound(key: str, huge: float) -> None:
    assert key.rpartition(".")[2] in complaint({key: huge})


def test_a_number_of_thousands_of_digits_is_reported_without_a_traceback() -> None:
    text = DEFAULT.replace("max_steps: 30", f"max_steps: 0x{'f' * 5000}")
    with pytest.raises(UserError, match="an integer of more than 40 digits"):
        parse_params(text, "some.yaml")


def test_yaml_aliases_are_refused_before_they_expand() -> None:
    # Each line doubles the values of the line before it.
    letters = "abcdefghijklmnopqrstu"
    lines = [f"{new}: &{new} [*{old}, *{old}]" for old, new in pairwise(letters)]
    bomb = "\n".join(["a: &a [x, x]", *lines])
    with pytest.raises(UserError, match="it has a YAML alias"):
        parse_params(bomb, "some.yaml")


def test_a_file_of_more_than_100000_characters_is_refused() -> None:
    with pytest.raises(UserError, match="more than 100000 characters"):
        parse_params(DEFAULT + "#" * 100_000, "some.yaml")


@pytest.mark.parametrize(
    "path", [".env", ".git/config", "data/.dvc/config.local", "data/" + "a" * 256]
)
def test_a_hidden_or_too_long_path_is_refused(path: str) -> None:
    assert "calibrate.gold" in complaint({"calibrate.gold": path})


def test_a_variant_may_have_the_name_of_a_kind() -> None:
    assert "variants.vllm.engine: " in complaint(
        {"variants.vllm": {"model": "models/base", "engine": "no"}}
    )


@pytest.mark.parametrize(
    "url",
    ["http://[x/a.csv", "http://a b/c", "https://user:key@host/a", "ftp://h/a", "http://h/a#b"],
)
def test_a_malformed_address_is_refused(url: str) -> None:
    assert "judge.base_url" in complaint({"judge.base_url": url})


# The JSON Schema

SCHEMA_FILE = ROOT / "params.schema.json"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
# The schema cannot express this check of the values of a list.
NOT_IN_SCHEMA = {"train.lora.target_modules"}
# The schema has no definition of the base classes, only of the classes of each kind.
BASE_SECTIONS = (Source, Tabular, FileForm, Task, TextReading)
FIELDS_IN_SCHEMA = [field for field in FIELDS if field.values[0] not in BASE_SECTIONS]


def test_the_schema_file_equals_the_generated_schema() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_valid_json_schema_2020_12() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PROFILES], ids=lambda path: str(path.stem))
def test_params_yaml_and_profiles_satisfy_the_schema(path: Path) -> None:
    assert list(VALIDATOR.iter_errors(read_yaml(path))) == []


@pytest.mark.parametrize("key", sorted(BAD_VALUES.keys() - NOT_IN_SCHEMA))
def test_the_schema_refuses_a_bad_value(key: str) -> None:
    assert not VALIDATOR.is_valid(changed_params({key: BAD_VALUES[key]}))


@pytest.mark.parametrize(("section", "name"), FIELDS_IN_SCHEMA)
def test_the_schema_describes_a_field_in_the_words_of_its_docstring(
    section: type[Section], name: str
) -> None:
    definition = SCHEMA if section is Params else SCHEMA["$defs"][section.__name__]
    docstring = section.model_fields[name].description or ""
    description = definition["properties"][name].get("description", "")
    assert description.split() == docstring.split()
    # Editors show a line break as it is, so each paragraph is one line.
    assert "\n" not in description.replace("\n\n", "")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: str(path.stem))
def test_the_first_line_of_a_profile_leads_editors_to_the_schema(path: Path) -> None:
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first_line == "# yaml-language-server: $schema=params.schema.json"
    # params.yaml is a copy of a profile, so the name must be valid in both folders.
    assert (path.parent / "params.schema.json").resolve() == SCHEMA_FILE


def test_bula_schema_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["schema", "--write"])
    assert (result.exit_code, result.output) == (0, "schema: params.schema.json was written\n")
    assert (tmp_path / "params.schema.json").read_bytes() == SCHEMA_FILE.read_bytes()
    result = CliRunner().invoke(app, ["schema"])
    assert (result.exit_code, result.output) == (0, "schema: params.schema.json is up to date\n")


def test_bula_schema_refuses_an_old_file_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.schema.json").write_text("{}", encoding="utf-8")
    result = CliRunner().invoke(app, ["schema"])
    assert isinstance(result.exception, UserError)
    assert "python -m bula schema --write" in str(result.exception)
    assert (tmp_path / "params.schema.json").read_text(encoding="utf-8") == "{}"
