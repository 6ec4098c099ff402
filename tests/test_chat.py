"""Test `bula chat` in a browser: warning, emergencies, streams and closed doors."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import httpx2
import openai
import pytest
from typer.testing import CliRunner

from bula.__main__ import app
from bula.asking import QUESTION, encode_question
from bula.chat_page import NO_ANSWER, STOPPED, TOO_LONG, answer
from bula.emergency.answers import CVV, SAMU
from bula.errors import UserError
from bula.local_web import address, bind
from bula.models import load_tokenizer
from bula.serving import WITHOUT_PROXY
from tests.browser import open_page
from tests.conftest import user_environment

HOSTILE = "<img src=x onerror=alert(1)> ![x](http://evil.example/a.png) </script> {{ 7 * 7 }}"
WAIT = 30_000
# The opacity of an element, with that of the elements around it.
OPACITY = """
element => {
  let product = 1;
  for (let part = element; part; part = part.parentElement) {
    product *= getComputedStyle(part).opacity;
  }
  return product;
}
"""
# Gradio counts its events by an option of pandas that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting':Warning")


def slow(text: str, seconds: float = 0.0) -> Any:
    """Return a function that answers every question with the words of a text."""

    def ask(question: str) -> Iterator[str]:
        parts = text.split(" ")
        for count in range(1, len(parts) + 1):
            time.sleep(seconds)
            yield " ".join(parts[:count])

    return ask


@contextmanager
def page_of(asks: dict[str, Any]) -> Iterator[str]:
    """Serve a page in a thread, and yield its address."""
    import uvicorn

    from bula.chat_page import build_app

    with bind("127.0.0.1", 0) as listening:
        config = uvicorn.Config(build_app(asks), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield address(listening)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with page_of({"base": slow(HOSTILE), "tuned": slow("Sim, com protetor. " * 3, 0.1)}) as found:
        yield found


def load(page: Any, url: str) -> None:
    """Open the page, and wait until it is drawn."""
    page.goto(url)
    page.wait_for_selector("#send", timeout=WAIT)


def ask(page: Any, question: str) -> None:
    """Type a question, and press the button."""
    page.fill("#question textarea", question)
    page.click("#send")


def box(page: Any, name: str) -> str:
    """Return the text in the box of one variant."""
    return str(page.input_value(f"#answer-{name} textarea"))


def wait_for(page: Any, name: str, text: str) -> None:
    """Wait until a box contains a text."""
    page.wait_for_function(
        "([name, text]) => document.querySelector(`#answer-${name} textarea`).value.includes(text)",
        arg=[name, text],
        timeout=WAIT,
    )


def test_both_variants_answer_and_the_page_asks_no_other_machine(browser: Any, url: str) -> None:
    page, watch = open_page(browser, locale="pt-BR")
    load(page, url)
    ask(page, "Posso tomar sol?")
    wait_for(page, "tuned", "Sim, com")
    # The longer answer is still growing.
    assert box(page, "tuned").count("Sim") < 3
    wait_for(page, "base", "7 * 7")
    page.wait_for_timeout(1500)
    assert box(page, "tuned").strip() == ("Sim, com protetor. " * 3).strip()
    assert (watch.requests, watch.errors) == ([], [])


def test_hostile_answers_stay_text(browser: Any, url: str) -> None:
    page, watch = open_page(browser)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    load(page, url)
    ask(page, "<script>alert(2)</script>")
    wait_for(page, "base", "}}")
    assert box(page, "base") == HOSTILE
    assert (dialogs, watch.requests, watch.errors) == ([], [], [])


def test_an_emergency_is_answered_before_the_model(browser: Any) -> None:
    with page_of({"base": slow("Espere.", 3), "tuned": slow("Espere.", 3)}) as url:
        page, _ = open_page(browser)
        load(page, url)
        ask(page, "Estou com dor no peito.")
        page.wait_for_selector("#notice .emergency", timeout=WAIT)
        assert SAMU in page.inner_text("#notice")
        assert (box(page, "base"), box(page, "tuned")) == ("", "")
        wait_for(page, "tuned", "Espere.")
        assert SAMU in page.inner_text("#notice")
        assert page.get_attribute("#notice a", "href") == "tel:192"


def test_no_model_answers_a_question_about_suicide(browser: Any, url: str) -> None:
    page, _ = open_page(browser)
    load(page, url)
    ask(page, "Quero morrer.")
    page.wait_for_selector("#notice .emergency", timeout=WAIT)
    page.wait_for_timeout(1000)
    assert CVV in page.inner_text("#notice")
    assert (box(page, "base"), box(page, "tuned")) == ("", "")


def test_the_next_question_removes_the_notice(browser: Any, url: str) -> None:
    page, _ = open_page(browser)
    load(page, url)
    ask(page, "Quero morrer.")
    page.wait_for_selector("#notice .emergency", timeout=WAIT)
    ask(page, "Posso tomar sol?")
    wait_for(page, "tuned", "Sim")
    assert page.query_selector("#notice .emergency") is None


def test_the_warning_stays_visible_while_the_page_scrolls(browser: Any, url: str) -> None:
    page, _ = open_page(browser, phone=True)
    load(page, url)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > 200
    place = page.locator("#warning").bounding_box()
    assert place["y"] >= 0
    assert place["y"] + place["height"] <= 300
    assert "192 (SAMU)" in page.inner_text("#warning")
    assert "188 (CVV)" in page.inner_text("#warning")


def test_the_page_fits_a_telephone(browser: Any, url: str) -> None:
    page, _ = open_page(browser, phone=True)
    load(page, url)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    base = page.locator("#answer-base").bounding_box()
    tuned = page.locator("#answer-tuned").bounding_box()
    assert tuned["y"] >= base["y"] + base["height"]
    assert base["width"] > 250


def test_the_boxes_stand_side_by_side_on_a_desktop(browser: Any, url: str) -> None:
    page, _ = open_page(browser)
    load(page, url)
    base = page.locator("#answer-base").bounding_box()
    tuned = page.locator("#answer-tuned").bounding_box()
    assert base["y"] == tuned["y"]
    assert tuned["x"] >= base["x"] + base["width"]


def test_the_page_is_in_portuguese_and_names_the_rules(browser: Any, url: str) -> None:
    page, _ = open_page(browser)
    load(page, url)
    assert page.evaluate("document.documentElement.lang") == "pt-BR"
    rules = page.inner_text("#rules")
    for law in (
        "12.842/2013",
        "CFM 2.314/2022",
        "CFM 2.454/2026",
        "13.709/2018",
        "art. 11",
        "art. 20",
    ):
        assert law in rules
    assert "não classifica o risco" in rules
    labels = page.locator("label").all_inner_texts()
    assert any("Sua pergunta" in label for label in labels)


def test_the_keyboard_is_enough(browser: Any, url: str) -> None:
    page, _ = open_page(browser)
    load(page, url)
    page.focus("#question textarea")
    page.keyboard.type("Posso tomar sol?")
    # Four forms of the answer, and then the button.
    for _ in range(5):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    page.keyboard.press("Enter")
    wait_for(page, "tuned", "Sim")


def test_a_second_session_sees_its_own_answers_only(browser: Any, url: str) -> None:
    first, _ = open_page(browser)
    second, _ = open_page(browser)
    load(first, url)
    load(second, url)
    ask(first, "Posso tomar sol?")
    wait_for(first, "tuned", "Sim")
    assert box(second, "tuned") == ""
    ask(second, "Posso?")
    wait_for(second, "tuned", "Sim")


def test_an_emergency_does_not_wait_for_another_session(browser: Any) -> None:
    with page_of({"base": slow("um " * 100, 0.1), "tuned": slow("um " * 100, 0.1)}) as url:
        first, _ = open_page(browser)
        second, _ = open_page(browser)
        load(first, url)
        load(second, url)
        ask(first, "Posso tomar sol?")
        wait_for(first, "tuned", "um")
        ask(second, "Quero morrer.")
        second.wait_for_selector("#notice .emergency", timeout=5000)
        second.wait_for_timeout(1000)
        # Gradio dims a text that is about to change.
        assert second.locator("#notice .emergency").evaluate(OPACITY) == 1
        first.click("#stop")


def test_stop_ends_an_answer(browser: Any) -> None:
    with page_of({"base": slow("um " * 200, 0.1), "tuned": slow("um " * 200, 0.1)}) as url:
        page, _ = open_page(browser)
        load(page, url)
        ask(page, "Posso tomar sol?")
        wait_for(page, "tuned", "um um")
        page.click("#stop")
        page.wait_for_timeout(1000)
        words = len(box(page, "tuned").split())
        page.wait_for_timeout(1000)
        assert len(box(page, "tuned").split()) == words < 100


def status(url: str, data: bytes | None = None, **headers: str) -> int:
    """Return the status of a request."""
    request = Request(url, data, headers)
    try:
        with WITHOUT_PROXY.open(request, timeout=10) as reply:
            return int(reply.status)
    except HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/info",
        "gradio_api/openapi.json",
        "gradio_api/file=params.yaml",
        "gradio_api/proxy=http://example.org",
        "gradio_api/upload_progress",
        "gradio_api/vibe-code",
        "monitoring",
        "docs",
        "openapi.json",
        "gradio_api//info",
        "%67radio_api/info",
    ],
)
def test_the_other_doors_of_gradio_are_closed(url: str, path: str) -> None:
    assert status(f"{url}/{path}") == 404


def test_uploads_and_direct_calls_are_refused(url: str) -> None:
    json_type = {"Content-Type": "application/json"}
    for path in ("upload", "run/respond", "api/respond", "call/respond"):
        assert status(f"{url}/gradio_api/{path}", b'{"data": []}', **json_type) == 404


def test_another_host_name_is_refused(url: str) -> None:
    assert status(f"{url}/", Host="evil.example") == 400


def test_the_browser_may_read_only_this_server(url: str) -> None:
    with WITHOUT_PROXY.open(url, timeout=10) as reply:
        policy = reply.headers["Content-Security-Policy"]
        text = reply.read().decode()
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "fonts.googleapis" not in text


def test_chat_answers_by_real_models_and_ends_on_ctrl_c(
    workspace: Path, tiny: Path, browser: Any
) -> None:
    for name in ("base", "merged"):
        (workspace / "models" / name).symlink_to(tiny)
    process = subprocess.Popen(
        [sys.executable, "-m", "bula", "chat", "--port", "0"],
        cwd=workspace,
        env=user_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("chat: http://127.0.0.1:"), process.communicate()
    page, watch = open_page(browser)
    load(page, line.split()[1])
    ask(page, "Posso tomar sol?")
    page.wait_for_function(
        "document.querySelector('#answer-tuned textarea').value.length > 3", timeout=WAIT
    )
    assert (watch.requests, watch.errors) == ([], [])
    page.close()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_another_address_than_loopback_is_refused() -> None:
    result = CliRunner().invoke(app, ["chat", "--host", "0.0.0.0"])
    assert isinstance(result.exception, UserError)
    assert "only this machine may reach it" in str(result.exception)


# The answers of a question, without a page


LOST = httpx2.Request("POST", "http://127.0.0.1")
FAILURES = {
    "a long question": (UserError("the question", "it is too long", "ask in less"), TOO_LONG),
    "a refusal": (UserError("base.gguf", "llama.cpp refused the question", "ask less"), NO_ANSWER),
    "a stopped server": (openai.APIConnectionError(request=LOST), STOPPED),
}


@pytest.mark.parametrize("name", FAILURES)
def test_the_reason_of_a_missing_answer_is_said_in_portuguese(name: str) -> None:
    error, sentence = FAILURES[name]

    def fail(question: str) -> Iterator[str]:
        yield "Sim"
        raise error

    found = list(answer({"base": slow("Não."), "tuned": fail}, "Dói?", ""))
    assert found[1] == ["", "Não.", "Sim"]
    assert found[-1] == ["", sentence, sentence]


def test_a_bug_is_not_hidden() -> None:
    def fail(question: str) -> Iterator[str]:
        raise LookupError
        yield ""

    with pytest.raises(LookupError):
        list(answer({"base": fail}, "Dói?", ""))


def test_a_question_of_too_many_tokens_is_too_long(tiny: Path) -> None:
    with pytest.raises(UserError) as refused:
        encode_question(load_tokenizer(tiny), "dor " * 3000)
    assert refused.value.where == QUESTION


def test_a_style_reaches_the_models() -> None:
    def echo(question: str) -> Iterator[str]:
        yield question

    found = list(answer({"base": echo}, "Dói?", "post"))[-1]
    assert found[1].startswith("Escreva uma publicação de rede social")
    assert found[1].endswith("\n\nDói?")


def test_an_empty_question_asks_no_model() -> None:
    [[notice, text]] = list(answer({"base": slow("x")}, " ", ""))
    assert "Escreva uma pergunta." in notice
    assert text == ""
