"""The page, made with Gradio: a file or a recording in, answers out. It calls no other machine."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_utils.app.answer_view import render_message
from hf_utils.app.asked_models import AskedModel
from hf_utils.app.played_sound import MOST_SECONDS
from hf_utils.app.visitors import HeardFile, Visitors
from hf_utils.errors import UserError

try:
    import gradio
    from starlette.datastructures import Headers
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
except ImportError as error:
    raise UserError("hf_utils.app needs the package gradio: pip install -r requirements-app.txt") from error

MOST_MEGABYTES = 150
_TEMPLATES = Path(__file__).parents[1] / "templates"
# The slider begins at the right, with noise that hardly anybody hears.
_LOUDEST_DB, _FAINTEST_DB = -10, 40
_FORGET_UPLOADS_SECONDS = 3600

_TITLE = """
# What genre is this?
Drop music to see which genres {who} in it, and when. Then add noise, and see how long the answer holds.
"""
_WAITING = "The answer comes here."
_HINT = "Move the slider to hear the same music in white noise, and to see what becomes of the answer."
# Names by which a browser reaches this machine, also through a tunnel.
_OWN_NAMES = ("127.0.0.1", "localhost")
# Addresses of Gradio by which a visitor could make this server fetch something for them.
_FETCHING = ("file=http:", "file=https:", "/proxy=")
# What the browser may load: nothing from elsewhere, whatever Gradio asks for.
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; object-src 'none'"


def make_page(models: Sequence[AskedModel], folder: Path) -> gradio.Blocks:
    """Return the page; sounds of its visitors are in `folder`."""
    visitors = Visitors(models, folder)

    def hear(file: str, title: str, request: gradio.Request) -> tuple:
        answers, heard = visitors.hear(Path(file), title, request.session_hash)
        hint = render_message(_HINT, "hint") if heard else ""
        # The fields are empty again, and the slider is back: what was handed in is shown below them.
        return None, None, answers, heard, gradio.update(value=_FAINTEST_DB, visible=heard is not None), hint

    def hear_upload(file: str, request: gradio.Request) -> tuple:
        return hear(file, Path(file).name, request)

    def hear_microphone(file: str, request: gradio.Request) -> tuple:
        return hear(file, "Your recording", request)

    def hear_noisy(heard: HeardFile, snr_db: float, request: gradio.Request) -> str:
        return visitors.hear_noisy(heard, snr_db, request.session_hash)

    def leave(request: gradio.Request) -> None:
        visitors.forget(request.session_hash)

    page = gradio.Blocks(
        title="What genre is this?",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(_FORGET_UPLOADS_SECONDS, _FORGET_UPLOADS_SECONDS),
    )
    with page:
        who = "a model hears" if len(models) == 1 else "two models hear"
        gradio.Markdown(_TITLE.format(who=who), elem_id="title")
        with gradio.Row(equal_height=True):
            label = f"Music: up to {MOST_SECONDS // 60} minutes, {MOST_MEGABYTES} MB"
            upload = gradio.File(label=label, height=150, scale=3, elem_id="upload")
            microphone = gradio.Audio(
                sources=["microphone"], type="filepath", label="Or record", scale=2, elem_id="microphone"
            )
        answers = gradio.HTML(render_message(_WAITING, "hint"), elem_id="answers")
        heard = gradio.State()
        snr_db = gradio.Slider(
            _LOUDEST_DB,
            _FAINTEST_DB,
            _FAINTEST_DB,
            step=1,
            visible=False,
            label="White noise: signal-to-noise ratio in dB",
            info=f"{_FAINTEST_DB}: hardly to be heard. 0: as loud as the music. {_LOUDEST_DB}: louder than the music.",
            elem_id="noise",
        )
        noisy = gradio.HTML(elem_id="noisy")
        shown = [upload, microphone, answers, heard, snr_db, noisy]
        # One after the other: each takes all cores.
        together = {"concurrency_id": "models", "concurrency_limit": 1, "api_visibility": "private"}
        upload.upload(hear_upload, upload, shown, show_progress_on=answers, **together)
        microphone.stop_recording(hear_microphone, microphone, shown, show_progress_on=answers, **together)
        snr_db.release(hear_noisy, [heard, snr_db], noisy, **together)
        page.unload(leave)
    return page


def serve_page(page: gradio.Blocks, folder: Path) -> str:
    """Serve the page, and what is in `folder`, in other threads until `page.close()`; return its address.

    It is on this machine only, but for a Space of the Hub, which is reached through the Hub.

    Raises:
        UserError: no port is free.
    """
    # Gradio asks its own server whether it is up, and a proxy would not know.
    others = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    os.environ["no_proxy"] = f"{others},127.0.0.1".lstrip(",")
    font = ["system-ui", "sans-serif"]
    is_local = not gradio.utils.get_space()
    try:
        _, address, _ = page.launch(
            server_name="127.0.0.1" if is_local else None,
            allowed_paths=[str(folder)],
            max_file_size=MOST_MEGABYTES * gradio.FileSize.MB,
            theme=gradio.themes.Default(primary_hue="blue", font=font, font_mono=["ui-monospace", "monospace"]),
            css_paths=_TEMPLATES / "app.css",
            head=f"<script>{(_TEMPLATES / 'app.js').read_text(encoding='utf-8')}</script>",
            app_kwargs={"middleware": [Middleware(OnlyFromHere, is_local=is_local)]},
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
        )
    except OSError as error:
        raise UserError(f"the page cannot be served: {error}") from None
    return address


class OnlyFromHere:
    """Sends the policy with every answer of a server, and fetches nothing; a local one answers only its own page."""

    def __init__(self, app: Callable, is_local: bool):
        self._app, self._is_local = app, is_local

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY)]
            await send(message)

        if self._is_local and scope["type"] == "http" and _is_from_elsewhere(Headers(scope=scope)):
            await PlainTextResponse("This page answers no other site.", 403)(scope, receive, send)
        elif any(address in scope.get("path", "").lower() for address in _FETCHING):
            await PlainTextResponse("This page fetches nothing from elsewhere.", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send_with_policy)


def _is_from_elsewhere(headers: Headers) -> bool:
    """Return whether another site makes a browser ask: from its own page, or by a name of its own that leads here."""
    host, origin = headers.get("host", ""), headers.get("origin")
    return host.partition(":")[0] not in _OWN_NAMES or origin not in (None, f"http://{host}")
