"""`freeprompt studio`."""

from pathlib import Path
from typing import Annotated

import typer

from freeprompt.cli.edit import DEFAULT_MODEL
from freeprompt.errors import ConfigError


def studio(
    model: Annotated[str, typer.Option(help="Catalogue name, folder or Hub id.")] = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 on.")
    ] = None,
    auth: Annotated[
        str | None, typer.Option(help="name:password; needed for any other address.")
    ] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="Offer MCP tools too.")] = False,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds that a job may take.")] = 600,
    results: Annotated[
        Path, typer.Option(help="Folder of benchmark and search results to browse.")
    ] = Path("results"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")] = "auto",
) -> None:
    """Edit, compare and look inside, on a page in your browser."""
    from freeprompt.studio.page import LOOPBACK, check_address, launch, need_gradio

    need_gradio()
    password = parse_auth(auth)
    check_address(host, password)
    if host not in LOOPBACK:
        typer.echo(
            f"The page at {host} can be reached by others, unencrypted: the password travels in "
            "the open. Put a proxy with HTTPS before it on any network that you do not trust.",
            err=True,
        )
    from freeprompt.cli.loading import load
    from freeprompt.studio.service import Service

    service = Service(
        editor=load(model, device=device, dtype=dtype),
        model=model,
        limit=time_limit,
        results=results,
    )
    try:
        page, address = launch(service, host=host, port=port, auth=password, mcp=mcp, wait=False)
        typer.echo(f"The studio is at {address} - stop it with Ctrl-C.")
        page.block_thread()
    finally:
        service.close()


def parse_auth(auth: str | None) -> tuple[str, str] | None:
    """Read `name:password`.

    Raises:
        ConfigError: for anything else.
    """
    if auth is None:
        return None
    name, colon, password = auth.partition(":")
    if not colon or not name or not password:
        raise ConfigError("--auth takes name:password, both of at least one character.")
    return name, password
