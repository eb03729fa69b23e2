"""The docs as a site, in a browser: every page on a desktop and a phone, light and dark."""

import asyncio
import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from browser import FAULTS, OVERFLOW, SIZES, needs_chromium, open_browser, source_of_axe

pytestmark = needs_chromium
ROOT = Path(__file__).parents[2]

COPY = """(async block => {
    await navigator.clipboard.writeText("nothing was copied")
    block.scrollIntoView()
    for (let n = 0; n < 600 && !block.querySelector(".md-code__button"); n++)
        await new Promise(done => setTimeout(done, 50))
    block.querySelector(".md-code__button").click()
    return await navigator.clipboard.readText()
})(document.querySelectorAll(".language-sh")[%d])"""
"""The text that the copy button of a block of commands puts on the clipboard."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the built site, and its pages."""
    pytest.importorskip("mkdocs", reason="needs mkdocs-material, of the extra dev")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True,
    )  # fmt: skip

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pages = [str(each.parent.relative_to(folder)) + "/" for each in sorted(folder.glob("**/index.html"))]
        yield f"http://127.0.0.1:{server.server_address[1]}/", pages
        server.shutdown()


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core."""
    return source_of_axe(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_and_nothing_is_loaded_from_elsewhere(site, axe, tmp_path, tell, size, scheme):
    root, pages = site

    async def visit():
        async with open_browser(tmp_path) as tab:
            for page in pages:
                await tab.open(root + page, SIZES[size], scheme)
                await tab.value_of(f"{axe};0")
                found = [await tab.value_of(script) for script in (OVERFLOW, FAULTS)]
                shown = await tab.value_of("document.body.dataset.mdColorScheme")
                elsewhere = [each for each in tab.asked if not each.startswith((root, "data:", "blob:"))]
                yield page, shown, [*found, tab.logged, elsewhere]

    async def look():
        return [each async for each in visit()]

    found = asyncio.run(look())
    assert {shown for _, shown, _ in found} == {"default" if scheme == "light" else "slate"}
    assert [(page, faults) for page, _, faults in found if faults != [0, [], [], []]] == []
    tell(f"docs in Chromium, {size}, {scheme}", pages=len(found), faults=0)


def test_a_copied_block_is_what_its_page_has(site, tmp_path, tell):
    root, pages = site

    async def copied():
        async with open_browser(tmp_path) as tab:
            kinds = ["clipboardReadWrite", "clipboardSanitizedWrite"]
            await tab.call("Browser.grantPermissions", permissions=kinds)
            for page in pages:
                await tab.open(root + page, SIZES["desktop"], "light")
                blocks = await tab.value_of("document.querySelectorAll('.language-sh').length")
                yield page, [await tab.value_of(COPY % number) for number in range(blocks)]

    async def copy():
        return [each async for each in copied()]

    blocks = 0
    for page, given in asyncio.run(copy()):
        name = page.strip("./") or "index"
        text = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
        written = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert given == [block.rstrip() for block in written], page
        blocks += len(given)
    tell("blocks of commands copied", pages=len(pages), blocks=blocks)
