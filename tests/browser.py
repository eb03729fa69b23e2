"""Chromium without a window: pages are opened in it, asked by scripts, and looked at."""

import asyncio
import base64
import json
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp, which speaks to the browser, is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = "axe-core@4.10.2"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FAULTS = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.map(
    each => each.id + ": " + each.nodes.map(node => node.target.join(" ")).slice(0, 3).join(", ")))"""

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed, so no page is opened in it"
)


def source_of_axe(folder: Path) -> str:
    """The source of axe-core, from npm's registry; skips where that cannot be reached."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so axe-core is not at hand")
    words = ["npm", "pack", AXE, "--prefer-offline", "--no-update-notifier"]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{AXE} cannot be had in 5 minutes")
    if done.returncode:
        pytest.skip(f"{AXE} cannot be had: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode("utf-8")


class Tab:
    """A tab of a browser: what its pages logged and asked for since the last was opened."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number, self._is_loaded = socket, 0, False
        self.logged: list[str] = []
        self.asked: list[str] = []

    async def _take(self) -> dict:
        message = json.loads((await asyncio.wait_for(self._socket.receive(), 120)).data)
        method, found = message.get("method"), message.get("params", {})
        if method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.logged.append(json.dumps(found)[:300])
        elif method == "Network.requestWillBeSent":
            self.asked.append(found["request"]["url"])
        self._is_loaded = self._is_loaded or method == "Page.loadEventFired"
        return message

    async def call(self, method: str, **params: object) -> dict:
        self._number += 1
        await self._socket.send_str(json.dumps({"id": self._number, "method": method, "params": params}))
        while (message := await self._take()).get("id") != self._number:
            pass
        assert "error" not in message, message
        return message["result"]

    async def open(self, address: str, size: tuple[int, int], scheme: str, media: str = "") -> None:
        """Open a page at a size, in the scheme ``light`` or ``dark``, and wait until it is loaded."""
        self._is_loaded, self.logged, self.asked = False, [], []
        width, height = size
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **shape)
        scheme_of = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", media=media, features=scheme_of)
        await self.call("Page.navigate", url=address)
        while not self._is_loaded:
            await self._take()

    async def value_of(self, script: str) -> object:
        """The value of a script, or of its promise, in the page, as if the user had asked for it."""
        how = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        found = await self.call("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(
            (await self.call("Page.captureScreenshot", captureBeyondViewport=True))["data"]
        )


@asynccontextmanager
async def open_browser(folder: Path) -> AsyncIterator[Tab]:
    """A browser whose profile is ``folder``, and its only tab."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]
    process = subprocess.Popen(
        [CHROMIUM, *flags, *quiet, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = folder / "DevToolsActivePort"
        for _ in range(600):
            if port.exists() and "\n" in port.read_text():
                break
            await asyncio.sleep(0.1)
        root = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{root}/json/list") as reply:
                (target,) = [each for each in await reply.json(content_type=None) if each["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Log", "Runtime", "Network", "Page"):
                    await tab.call(f"{domain}.enable")
                await tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
                yield tab
    finally:
        process.terminate()
        process.wait()
