"""Build the page that shows two variants side by side.

Gradio draws the page. llama.cpp's own page shows one model, has no place for a warning that stays,
and cannot answer an emergency before the model does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai

from bula.answer_styles import StyleName, with_style
from bula.ask_terminal import EMPTY, HEADINGS
from bula.asking import QUESTION, Ask, together
from bula.emergency.finding import answer_emergency, model_may_answer
from bula.errors import UserError
from bula.escaping import terminal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

TEMPLATES = Path(__file__).resolve().parent.parent / "templates/chat"
TITLE = "bula: perguntas de saúde, base e ajustado"
QUESTION_CHARACTERS = 2000
TOO_LONG = "A pergunta é longa demais. Escreva com menos palavras."
STOPPED = "O modelo parou de responder. Encerre `bula chat` no terminal e o inicie de novo."
NO_ANSWER = "O modelo não conseguiu responder. Tente de novo ou escreva de outra forma."
NO_QUESTION = "Escreva uma pergunta."
# Questions that wait for the model; the next one is refused.
QUEUE = 20
STYLES = {
    "Como no treino": "",
    "Linguagem simples": StyleName.SIMPLE,
    "Texto de blog": StyleName.BLOG,
    "Publicação curta": StyleName.POST,
}
HOSTS = ["127.0.0.1", "localhost", "[::1]"]
# The page needs only these paths; Gradio also offers uploads, files, a proxy and an API.
PATHS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
EXACT_PATHS = {
    *("/", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/config"),
    *("/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/cancel"),
    *("/gradio_api/startup-events", "/gradio_api/reset", "/gradio_api/reset/"),
}
# The browser itself refuses every address but this server's.
POLICY = (
    b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    b"script-src 'self' 'unsafe-inline' 'unsafe-eval'; font-src 'self' data:; object-src 'none'; "
    b"base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def render(name: str, **values: str) -> str:
    """Return a template of the page, in which values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(name).render(**values)


def answer(asks: dict[str, Ask], question: str, style: str) -> Iterator[list[str]]:
    """Yield the emergency answer and the answers so far, one text per box.

    The emergency answer comes before any text of a model, and no model answers a question about
    suicide.
    """
    notice, *empty = first_reply(question, len(asks))
    yield [notice, *empty]
    if not question.strip() or not model_may_answer(question):
        return
    asked = with_style(question.strip(), StyleName(style) if style else None)
    try:
        yield from ([notice, *texts] for texts in _answers(asks, asked))
    except (UserError, openai.APIConnectionError) as error:
        yield [notice, *[_explain(error)] * len(asks)]


def _explain(error: Exception) -> str:
    """Return the sentence that tells the reader why there is no answer.

    Any error but UserError means that the server of the model has stopped.
    """
    if not isinstance(error, UserError):
        return STOPPED
    return TOO_LONG if error.where == QUESTION else NO_ANSWER


def first_reply(question: str, boxes: int) -> list[str]:
    """Return the emergency answer, or an empty text, and the empty boxes of answers."""
    notice = ""
    urgent = answer_emergency(question)
    if urgent:
        notice = render("emergency.html", text=urgent, note="")
    elif not question.strip():
        notice = render("emergency.html", text="", note=NO_QUESTION)
    return [notice, *[""] * boxes]


def _answers(asks: dict[str, Ask], question: str) -> Iterator[list[str]]:
    """Yield the answers so far of all variants.

    A reader who leaves stops the models.
    """
    with ExitStack() as stack:
        streams: list[Any] = [ask(question) for ask in asks.values()]
        for stream in streams:
            stack.enter_context(closing(stream))
        texts: list[str] = []
        for texts in together(streams):
            yield [terminal(text, lines=True) for text in texts]
        yield [terminal(text, lines=True) or EMPTY for text in texts]


def build_page(asks: dict[str, Ask]) -> Any:
    """Return the page, which is gradio.Blocks.

    `asks` has one function per variant, the base first.
    """
    import gradio

    with gradio.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gradio.HTML(render("warning.html"), elem_id="warning")
        # Above the question, so that a telephone shows the numbers without scrolling.
        notice = gradio.HTML("", elem_id="notice")
        inputs = _question_boxes()
        with gradio.Row():
            send = gradio.Button("Perguntar", variant="primary", elem_id="send")
            stop = gradio.Button("Parar", elem_id="stop")
        with gradio.Row():
            boxes = [_answer_box(name) for name in asks]
        gradio.HTML(render("rules.html"), elem_id="rules")
        _connect(asks, send, stop, inputs, [notice, *boxes])
    page.queue(max_size=QUEUE, api_open=False)
    return page


def _connect(
    asks: dict[str, Ask], send: Any, stop: Any, inputs: list[Any], outputs: list[Any]
) -> None:
    """Let the buttons start and stop an answer."""

    def announce(question: str) -> list[str]:
        return first_reply(question, len(asks))

    def respond(question: str, style: str) -> Iterator[list[str]]:
        # Gradio dims what an event will write, and the notice must stay bright.
        for _, *texts in answer(asks, question, style):
            yield texts

    # An emergency is answered at once, even while the model works for another session.
    announced = send.click(
        announce, inputs[0], outputs, api_visibility="private", concurrency_limit=None
    )
    # One answer at a time: further sessions wait for their turn.
    event = announced.then(
        respond,
        inputs,
        outputs[1:],
        api_visibility="private",
        concurrency_limit=1,
        show_progress="minimal",
    )
    stop.click(None, cancels=[event], api_visibility="private")


def _question_boxes() -> list[Any]:
    """Return the box of the question, and the choice of a style."""
    import gradio

    question = gradio.Textbox(
        label="Sua pergunta",
        info="Não escreva nomes, documentos, telefones nem outros dados pessoais.",
        lines=3,
        max_length=QUESTION_CHARACTERS,
        elem_id="question",
    )
    style = gradio.Radio(list(STYLES.items()), value="", label="Forma da resposta", elem_id="style")
    return [question, style]


def _answer_box(name: str) -> Any:
    """Return the box of one variant, which shows plain text only."""
    import gradio

    return gradio.Textbox(
        label=HEADINGS[name],
        lines=10,
        max_lines=40,
        interactive=False,
        # Narrow screens show the boxes one below the other.
        min_width=280,
        elem_id=f"answer-{name}",
    )


def build_app(asks: dict[str, Ask]) -> ASGIApp:
    """Return the web application of the page, without the other doors of Gradio."""
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    theme = gradio.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        build_page(asks),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css_paths=TEMPLATES / "chat.css",
        head='<script>document.documentElement.lang = "pt-BR";</script>',
    )
    return TrustedHostMiddleware(closed(app), allowed_hosts=HOSTS)


def closed(app: ASGIApp) -> ASGIApp:
    """Return an application that answers only the page's own paths, with strict headers."""
    from starlette.responses import PlainTextResponse

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_allowed(scope["path"]):
            await PlainTextResponse("not found", status_code=404)(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await app(scope, receive, with_headers)

    return guard


def _is_allowed(path: str) -> bool:
    """Return whether the page needs a path."""
    return path in EXACT_PATHS or path.startswith(PATHS)
