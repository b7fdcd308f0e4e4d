"""The page's functions as MCP tools."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("gradio")
pytest.importorskip("mcp")

from freeprompt.methods import METHODS
from freeprompt.studio.page import launch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


async def talk(address):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{address}gradio_api/mcp/") as (reading, writing, _),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        tools = (await session.list_tools()).tools
        answer = await session.call_tool("methods", {})
        return {tool.name: tool for tool in tools}, answer.content[0].text


def test_the_tools_are_described_and_answer(service, port):
    page, address = launch(service, port=port(), mcp=True, wait=False)
    try:
        with ThreadPoolExecutor(1) as thread:  # a browser of another test has this thread's loop
            tools, answer = thread.submit(asyncio.run, talk(address)).result()
    finally:
        page.close(verbose=False)
    assert set(tools) == {"edit", "methods", "parameters"}
    assert "Edit a picture by text alone" in tools["edit"].description
    fields = tools["edit"].inputSchema["properties"]
    assert {"target", "source", "method", "seed"} <= set(fields)
    assert "blue car" in fields["target"]["description"]
    assert all(name in answer for name in METHODS)
