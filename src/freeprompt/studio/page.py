"""The page, and serving it."""

import os
import socket
from pathlib import Path
from typing import Any

from freeprompt.errors import ConfigError, MissingDependency
from freeprompt.studio.service import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_UPLOAD = "20mb"
STYLE = Path(__file__).with_name("style.css")
SCRIPT = Path(__file__).with_name("page.js")
TABS = ("Edit", "Compare", "Attention", "Layers", "Scoreboard")


def need_gradio() -> Any:
    """Import gradio, without its reports home.

    Raises:
        MissingDependency: naming the extra to install.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise MissingDependency(
            "The studio needs gradio, which is not installed. Install it with: "
            "pip install 'freeprompt[studio]'"
        ) from error
    return gradio


def build(service: Service) -> Any:
    """Return the page as `gradio.Blocks`.

    Args:
        service: The model and its limits.

    Raises:
        MissingDependency: without gradio.
    """
    gr = need_gradio()
    from freeprompt.studio.attention_tab import AttentionTab
    from freeprompt.studio.compare_tab import CompareTab
    from freeprompt.studio.edit_tab import EditTab
    from freeprompt.studio.interface import add_interface
    from freeprompt.studio.layers_tab import LayersTab
    from freeprompt.studio.scoreboard_tab import ScoreboardTab

    with gr.Blocks(
        title="freeprompt studio", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        gr.Markdown(
            f"# freeprompt studio\nEdit an image with nothing but a target prompt, and see why it "
            f"works. Model: **{service.model}**, {service.editor.model.native_size} pixels."
        )
        tabs = (EditTab, CompareTab, AttentionTab, LayersTab, ScoreboardTab)
        for name, tab in zip(TABS, tabs, strict=True):
            with gr.Tab(name, id=name.lower()):
                tab(service)
        add_interface(service)

        def left(request: gr.Request) -> None:  # type: ignore[name-defined]
            service.halt(request.session_hash or "")

        page.unload(left)
    page.queue(max_size=32, default_concurrency_limit=4)
    return page


def check_address(host: str, auth: tuple[str, str] | None) -> None:
    """Check that a page for others has a password, and that this machine has the address.

    Raises:
        ConfigError: if there is no password, or no such address here.
    """
    if host not in LOOPBACK and auth is None:
        raise ConfigError(
            f"--host {host} lets others in: whoever reaches this address could use the model and "
            "this machine's memory. Give a password with --auth name:password, or stay at "
            "127.0.0.1."
        )
    try:  # gradio would try a hundred ports, and take the name for a port that is taken
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host!r} is no address of this machine ({error}). Give one that it has, "
            "0.0.0.0 for all of them, or stay at 127.0.0.1."
        ) from error


def launch(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    mcp: bool = False,
    wait: bool = True,
) -> tuple[Any, str]:
    """Serve the page.

    Args:
        service: The model and its limits.
        host: Address to listen at.
        port: Port; None takes the first free one from 7860 on.
        auth: Name and password that visitors must give.
        mcp: Whether to offer the functions as MCP tools too.
        wait: Whether to return only when the server ends.

    Returns:
        The page and its address.

    Raises:
        ConfigError: for an open address without a password, or a port that is taken.
        MissingDependency: without gradio.
    """
    check_address(host, auth)
    page, gr = build(service), need_gradio()
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            auth=auth,
            mcp_server=mcp,
            max_file_size=LARGEST_UPLOAD,
            show_error=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            inbrowser=False,
            footer_links=["api"],
            prevent_thread_lock=True,
            allowed_paths=[str(service.files), str(Path(service.results).absolute())],
            theme=gr.themes.Base(
                font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
                primary_hue="teal",
                neutral_hue="slate",
            ),
            css=STYLE.read_text("utf-8"),
            js=SCRIPT.read_text("utf-8"),
        )
    except OSError as error:
        raise ConfigError(f"The studio cannot listen at {host}:{port or 7860}: {error}.") from error
    if wait:
        page.block_thread()
    return page, str(address)
