import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import DemoSource, Params, Section, load_params, parse_params
from tests.conftest import run

DEFAULT = (ROOT / "profiles/smollm2-135m.yaml").read_text(encoding="utf-8")
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def changed(changes: dict[str, Any]) -> str:
    """The default parameters with values changed by their dotted keys; ... takes a key away."""
    yaml = YAML(typ="safe")
    params = yaml.load(DEFAULT)
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        section = params
        for part in path:
            section = section[int(part) if part.isdigit() else part]
        if value is ...:
            del section[last]
        else:
            section[int(last) if last.isdigit() else last] = value
    stream = StringIO()
    yaml.dump(params, stream)
    return stream.getvalue()


def complaint(changes: dict[str, Any]) -> str:
    """What is said of the default parameters with these changes."""
    with pytest.raises(UserError) as caught:
        parse_params(changed(changes), "some.yaml")
    return str(caught.value)


# The files


def test_params_yaml_is_the_embedded_profile_byte_for_byte() -> None:
    # As committed: the file in the folder is there to be changed.
    committed = subprocess.run(
        ["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    assert committed == (ROOT / "profiles/smollm2-135m.yaml").read_bytes()


def test_there_are_two_profiles() -> None:
    assert [path.name for path in PROFILES] == ["llama-3.2-1b.yaml", "smollm2-135m.yaml"]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: str(path.stem))
def test_a_profile_loads_to_what_its_file_says(path: Path) -> None:
    # Nothing is added, nothing dropped and nothing converted on the way.
    assert load_params(path).model_dump() == YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def test_the_profiles_differ_in_values_and_have_the_same_sections() -> None:
    first, second = (YAML(typ="safe").load(path.read_text(encoding="utf-8")) for path in PROFILES)
    assert list(first) == list(second) == list(Params.model_fields)


def test_loaded_parameters_never_change() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        params.train.learning_rate = 1.0


# The sections


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from sections(section)


SECTIONS = [section for section in sections() if section.__module__ == "bula.params"]
FIELDS = [
    (section, name, field) for section in SECTIONS for name, field in section.model_fields.items()
]


def described(field: FieldInfo) -> bool:
    """Whether a field says what it means: itself, or, for a section or the `kind` that names one, by the class's docstring."""
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
        return bool(vars(field.annotation).get("__doc__"))
    names_its_class = (
        get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    )
    return names_its_class or bool(field.description and field.description.strip())


def test_the_sections_are_found() -> None:
    assert {"Params", "Train", "Lora", "WheelModel", "HubTask", "Variant"} <= {
        section.__name__ for section in SECTIONS
    }
    assert len(FIELDS) > 80


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: str(section.__name__))
def test_a_section_says_what_it_is_and_takes_no_unknown_key(section: type[Section]) -> None:
    assert vars(section).get("__doc__")
    assert section.model_config["extra"] == "forbid"
    assert section.model_config["frozen"]


@pytest.mark.parametrize(
    ("section", "name", "field"),
    FIELDS,
    ids=[f"{section.__name__}.{name}" for section, name, _ in FIELDS],
)
def test_a_field_has_a_description_and_no_default(
    section: type[Section], name: str, field: FieldInfo
) -> None:
    assert described(field), f"{section.__name__}.{name} has no docstring"
    # A default would be a parameter that DVC cannot see.
    assert field.is_required(), f"{section.__name__}.{name} has a default"


# Bad values


def test_every_bad_key_is_listed_at_once_with_what_was_found() -> None:
    message = complaint(
        {
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
    )
    first, *lines, fix = message.split("\n")
    assert first == "some.yaml: 12 bad values:"
    assert fix == "Correct them; bula/params.py says what each key means."
    keys = {line.split(":")[0].strip(): line for line in lines}
    assert len(keys) == len(lines) == 12
    for key, words in {
        "seed": ["greater than or equal to 0", "(found -1)"],
        "dtype": ["'bfloat16' or 'float32'", "(found 'float16')"],
        "preprocess.dev_share": ["less than 1", "(found 1.0)"],
        "train.learning_rate": ["valid number", "(found 'fast')"],
        "train.lora.r": ["greater than 0", "(found 0)"],
        "train.lora.target_modules": ["embed_tokens, lm_head cannot be adapted"],
        "train.warmup": ["not permitted", "(found 0.1)"],
        "judge.retries": ["required"],
        "merge": ["required"],
        "extra": ["not permitted"],
        "variants.tuned.engine": ["'transformers', 'llama.cpp' or 'vllm'", "(found 'ollama')"],
    }.items():
        assert all(word in keys[key] for word in words), keys.get(key)
    assert any(
        key.startswith("ingest.sources.0") and "(found 'Demo Corpus')" in line
        for key, line in keys.items()
    )


def test_a_mistyped_key_is_reported_twice_as_unknown_and_as_missing() -> None:
    message = complaint({"train.max_steps": ..., "train.maxsteps": 10})
    assert "  train.max_steps: Field required" in message.split("\n")
    assert "  train.maxsteps: Extra inputs are not permitted (found 10)" in message.split("\n")


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
    assert message.startswith("some.yaml: 1 bad values:\n")
    assert f"{key.split('.')[-1]}: Extra inputs are not permitted (found 1)" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compare.baseline": "bse"}, "compare.baseline is 'bse', which variants does not name"),
        (
            {"judge.items_per_set": 9, "generate.items_per_set": 8},
            "judge.items_per_set exceeds generate.items_per_set",
        ),
        (
            {"judge.base_url": "https://api.openai.com/v1"},
            "judge.base_url is local exactly when ingest.judge brings a model",
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
        ({"train.packing": True}, "packing needs attention: flash_attention_2"),
        ({"train.liger": True}, "liger needs kernels: trl"),
        (
            {"preprocess.dev_share": 0.5, "preprocess.validation_share": 0.1},
            "preprocess: dev_share and five times validation_share",
        ),
        (
            {"ingest.benchmarks.1.name": "bula_medmcqa"},
            "ingest: benchmarks repeat the name bula_medmcqa",
        ),
        ({"variants": {}}, "variants: "),
        ({"variants.UPPER": {"model": "x", "engine": "vllm"}}, "variants.UPPER"),
        ({"ingest.base.kind": "zip"}, "ingest.base: Input tag 'zip'"),
        ({"quantize.types": ["q4_k_m", "q3"]}, "quantize.types.1: "),
    ],
)
def test_parts_that_do_not_agree_are_refused(changes: dict[str, Any], words: str) -> None:
    assert words in complaint(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"judge.items_per_set": 8, "generate.items_per_set": 8},
        {
            "judge.base_url": "https://api.openai.com/v1",
            "ingest.judge": {"kind": "api", "license": "terms"},
        },
        {"train.eval_steps": 34, "train.max_steps": 34},
        {"compare.baseline": "tuned"},
        {"preprocess.dev_share": 0.4, "preprocess.validation_share": 0.1},
    ],
)
def test_the_limits_themselves_are_allowed(changes: dict[str, Any]) -> None:
    parse_params(changed(changes), "some.yaml")


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_between_nothing_and_all(share: float) -> None:
    assert "train.warmup_share: " in complaint({"train.warmup_share": share})


# YAML as DVC reads it


@pytest.mark.parametrize(
    ("written", "number"), [("2e-4", 0.0002), ("5E-5", 0.00005), ("1e-3", 0.001)]
)
def test_numbers_with_an_exponent_and_no_point_are_numbers(written: str, number: float) -> None:
    text = DEFAULT.replace("learning_rate: 0.001", f"learning_rate: {written}")
    assert parse_params(text, "some.yaml").train.learning_rate == number


def test_words_are_no_booleans() -> None:
    # YAML 1.1, and with it PyYAML, reads no as false, and 1:30 as 90.
    params = parse_params(
        DEFAULT.replace("tasks: [bula_medmcqa,", "tasks: [no, on, null_task,"), "some.yaml"
    )
    assert params.benchmark.tasks[:3] == ["no", "on", "null_task"]


@pytest.mark.parametrize("text", ["seed: [1", "seed: 1\nseed: 2\n", "a: b: c"])
def test_what_is_no_yaml_is_said_with_file_and_line(text: str) -> None:
    with pytest.raises(UserError, match=r"(?s)some\.yaml: not valid YAML .*line 1"):
        parse_params(text, "some.yaml")


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "- a\n- b\n"])
def test_a_file_without_sections_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"some\.yaml: 1 bad values:\n.*valid dictionary"):
        parse_params(text, "some.yaml")


# The command


def check(cwd: Path, *files: str) -> tuple[int, str, str]:
    """Exit code, output and complaints of `python -m bula.params`."""
    result = run([sys.executable, "-m", "bula.params", *files], cwd=cwd)
    return result.returncode, result.stdout, result.stderr


def test_the_command_says_which_files_are_valid() -> None:
    assert check(ROOT) == (0, "params.yaml: valid\n", "")
    files = [f"profiles/{path.name}" for path in PROFILES]
    assert check(ROOT, *files) == (0, "".join(f"{file}: valid\n" for file in files), "")


def test_a_missing_file_is_one_sentence_with_the_fix(tmp_path: Path) -> None:
    assert check(tmp_path, "nowhere.yaml") == (
        1,
        "",
        "nowhere.yaml: the file is missing. Copy one of profiles/*.yaml to it.\n",
    )
    assert check(tmp_path) == (
        1,
        "",
        "params.yaml: the file is missing. Copy one of profiles/*.yaml to it.\n",
    )


def test_a_bad_file_is_one_message_and_no_traceback(tmp_path: Path) -> None:
    text = changed({"seed": -1, "train.max_steps": 0})
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    code, output, errors = check(tmp_path, "bad.yaml")
    assert (code, output) == (1, "")
    lines = errors.splitlines()
    assert lines[0] == "bad.yaml: 2 bad values:"
    assert [line.split(":")[0] for line in lines[1:-1]] == ["  seed", "  train.max_steps"]


@pytest.mark.parametrize("license_", ["proprietary", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "unknown"])
def test_a_license_that_forbids_redistribution_must_be_declared(license_: str) -> None:
    fields = {"kind": "demo", "name": "mine", "path": "data/demo", "license": license_}
    with pytest.raises(
        ValidationError,
        match=f"license {license_} does not allow redistribution; say redistribution: forbidden",
    ):
        DemoSource.model_validate(fields | {"redistribution": "allowed"})
    assert DemoSource.model_validate(fields | {"redistribution": "forbidden"}).license == license_


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
# Every string of the default parameters that is free, and not one of a few words.
STRINGS = [
    "ingest.base.package",
    "ingest.base.version",
    "ingest.base.wheel_sha256",
    "ingest.base.member",
    "ingest.base.sha256",
    "ingest.base.license",
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
    "compare.baseline",
    "variants.base.model",
    "variants.base.engine",
    "compute.scheduler",
    "compute.tracker",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", STRINGS)
def test_no_string_can_mean_more_than_its_kind(key: str, text: str) -> None:
    message = complaint({key: text})
    # A line a key, whatever the text; the union of a kind may be named in its path.
    assert key.rpartition(".")[2] in message or key.rpartition(".")[0] in message


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_of_a_variant_can_mean_more_than_a_name(text: str) -> None:
    assert "variants" in complaint(
        {"variants": {text: {"model": "models/base", "engine": "transformers"}}}
    )


def test_a_variant_has_no_dot_which_dvc_would_take_for_a_path() -> None:
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
def test_a_package_is_a_name_and_no_address(package: str) -> None:
    assert "ingest.base.package" in complaint({"ingest.base.package": package})


@pytest.mark.parametrize(
    "version", ["1.0#x", "1.0 --pre", "*", ">=1", "1!2", "1.0+local", "1.0/../x"]
)
def test_a_version_is_exact(version: str) -> None:
    assert "ingest.base.version" in complaint({"ingest.base.version": version})


@pytest.mark.parametrize(
    "version", ["1.0", "2026.10.11549", "0.1.2", "1.0rc1", "1.0.post2", "1.0.dev3"]
)
def test_versions_as_the_index_has_them_are_allowed(version: str) -> None:
    parse_params(changed({"ingest.base.version": version}), "some.yaml")


def test_a_path_may_have_accents_and_spaces_but_no_hidden_sign() -> None:
    source = {
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
    parse_params(changed({"ingest.sources.0": source}), "some.yaml")
    assert "path" in complaint({"ingest.sources.0": source | {"path": "data/sources/a\u200bb.csv"}})
    assert "names" in complaint(
        {"ingest.sources.0": {key: value for key, value in source.items() if key != "names"}}
    )


def test_a_model_may_lie_elsewhere_only_where_its_kind_says_so() -> None:
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
def test_a_backend_takes_no_other_model_and_no_code(backend: dict[str, Any]) -> None:
    assert "benchmark.backend" in complaint({"benchmark.backend": backend})


def test_every_backend_that_is_documented_is_allowed() -> None:
    for backend in (
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
    ):
        parse_params(changed({"benchmark.backend": backend}), "some.yaml")


def numbers() -> Iterator[str]:
    """Yield the dotted key of every number of the default parameters."""
    yaml = YAML(typ="safe").load(DEFAULT)

    def walk(value: Any, where: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, part in value.items():
                yield from walk(part, f"{where}.{key}" if where else key)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield where

    yield from walk(yaml, "")


@pytest.mark.parametrize("key", list(numbers()))
def test_no_number_is_without_a_bound(key: str) -> None:
    for huge in (2**70, 1e300):
        assert key.rpartition(".")[2] in complaint({key: huge})


def test_a_number_of_thousands_of_digits_is_a_line_and_no_traceback() -> None:
    text = DEFAULT.replace("max_steps: 30", f"max_steps: 0x{'f' * 5000}")
    with pytest.raises(UserError, match="an integer of more than 40 digits"):
        parse_params(text, "some.yaml")


def test_aliases_and_long_files_are_refused_before_they_unfold() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    with pytest.raises(UserError, match="it has a YAML alias"):
        parse_params(bomb, "some.yaml")
    with pytest.raises(UserError, match="more than 100000 characters"):
        parse_params(DEFAULT + "#" * 100_000, "some.yaml")


@pytest.mark.parametrize(
    "path", [".env", ".git/config", "data/.dvc/config.local", "data/" + "a" * 256]
)
def test_a_path_names_no_hidden_file_and_no_impossible_one(path: str) -> None:
    assert "calibrate.gold" in complaint({"calibrate.gold": path})


def test_a_variant_may_be_called_like_a_kind() -> None:
    assert "variants.vllm.engine: " in complaint(
        {"variants.vllm": {"model": "models/base", "engine": "no"}}
    )


@pytest.mark.parametrize(
    "url",
    ["http://[x/a.csv", "http://a b/c", "https://user:key@host/a", "ftp://h/a", "http://h/a#b"],
)
def test_an_address_is_plain(url: str) -> None:
    assert "judge.base_url" in complaint({"judge.base_url": url})
