"""The report in a browser: nothing is loaded or logged, nothing overflows, and axe finds no fault."""

import asyncio
import base64
import json
import shutil
import subprocess
import tarfile

import numpy as np
import pytest

from farvox.cli.main import main

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp, which speaks to the browser, is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = "axe-core@4.10.2"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed, so no report is opened in it"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every section: two systems that give log-likelihood ratios, 12 speakers."""
    folder = tmp_path_factory.mktemp("browser")
    rng = np.random.default_rng(1)
    voices = np.repeat(rng.standard_normal((12, 24)), 6, axis=0)
    names = [f"s{speaker:02}-{take}" for speaker in range(12) for take in range(6)]
    pairs = [(e, t) for e in range(72) for t in range(e + 1, 72)]
    (folder / "trials").write_text(
        "".join(f"{names[e]} {names[t]} {int(e // 6 == t // 6)}\n" for e, t in pairs)
    )
    values = [f"{name}\t{('near', 'far')[n % 2]}\n" for n, name in enumerate(names)]
    (folder / "utt2cond").write_text("".join(["utt_id\tplace\n", *values]))
    for name, noise in (("fine-tuned", 0.8), ("baseline", 1.3)):
        emb = voices + noise * rng.standard_normal(voices.shape)
        emb /= np.linalg.norm(emb, axis=1, keepdims=True)
        scores = (f"{names[e]} {names[t]} {12 * float(emb[e] @ emb[t]) - 5}\n" for e, t in pairs)
        (folder / name).write_text("".join(scores))
    words = ["evaluate", "trials", "fine-tuned", "baseline", "--llr", "--intervals", "--bootstrap", "100"]
    words += ["--speaker-before", "-", "--by", "place", "--conditions", "utt2cond", "--report", "page.html"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(words) == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, from npm's registry."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so axe-core is not at hand")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(["npm", "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"{AXE} cannot be had: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode("utf-8")


async def open_page(page, size, scheme, folder, scripts, media=""):
    """Open a page; returns what was logged, the addresses asked for, what the scripts give, a picture."""
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
                return await _visit(socket, page, size, scheme, scripts, media)
    finally:
        process.terminate()
        process.wait()


async def _visit(socket, page, size, scheme, scripts, media):
    logged, asked, number, is_loaded = [], [], 0, False

    async def take():
        nonlocal is_loaded
        message = json.loads((await asyncio.wait_for(socket.receive(), 120)).data)
        method, found = message.get("method"), message.get("params", {})
        if method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            logged.append(json.dumps(found)[:300])
        elif method == "Network.requestWillBeSent":
            asked.append(found["request"]["url"])
        is_loaded = is_loaded or method == "Page.loadEventFired"
        return message

    async def call(method, **params):
        nonlocal number
        number += 1
        await socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        while (message := await take()).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    for domain in ("Log", "Runtime", "Network", "Page"):
        await call(f"{domain}.enable")
    await call("Emulation.setFocusEmulationEnabled", enabled=True)
    width, height = size
    is_phone = width < 600
    await call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
    )
    scheme_of = [{"name": "prefers-color-scheme", "value": scheme}]
    await call("Emulation.setEmulatedMedia", media=media, features=scheme_of)
    await call("Page.navigate", url=page.resolve().as_uri())
    while not is_loaded:
        await take()
    results = []
    for script in scripts:
        options = {"awaitPromise": True, "returnByValue": True}
        found = await call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in found, found
        results.append(found["result"].get("value"))
    picture = await call("Page.captureScreenshot", captureBeyondViewport=True)
    return logged, asked, results, base64.b64decode(picture["data"])


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALLEST = """Math.min(...[...document.querySelectorAll("svg text")].map(
    each => each.getBoundingClientRect()).filter(each => each.width >= each.height).map(
    each => each.height))"""
FAULTS = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.map(
    each => each.id + ": " + each.nodes.map(node => node.target.join(" ")).slice(0, 3).join(", ")))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_loaded_or_logged_and_axe_finds_nothing(page, axe, tmp_path, size, scheme):
    visit = open_page(page, SIZES[size], scheme, tmp_path, [OVERFLOW, SMALLEST, f"{axe};0", FAULTS])
    logged, asked, (overflow, smallest, _, faults), picture = asyncio.run(visit)
    assert logged == [] and asked == [page.resolve().as_uri()]
    assert overflow == 0 and smallest >= 8
    assert faults == []
    assert picture.startswith(b"\x89PNG")


def test_the_keyboard_reaches_the_skip_link_first_and_then_every_table(page, tmp_path):
    order = (
        """[...document.querySelectorAll("a, [tabindex='0']")].map(each => each.className || each.tagName)"""
    )
    focus = """(document.querySelector(".skip").focus(),
        document.querySelector(".skip").getBoundingClientRect().left >= 0)"""
    tables = "document.querySelectorAll('table').length"
    _, _, (reached, is_shown, count), _ = asyncio.run(
        open_page(page, SIZES["phone"], "light", tmp_path, [order, focus, tables])
    )
    assert reached[0] == "skip" and is_shown
    assert sum(each.startswith("wide") for each in reached) == count > 4


def test_a_printed_page_is_black_on_white_without_the_contents(page, tmp_path):
    colours = """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
        getComputedStyle(document.querySelector("nav")).display]"""
    _, _, (found,), _ = asyncio.run(
        open_page(page, SIZES["desktop"], "dark", tmp_path, [colours], media="print")
    )
    assert found == ["rgb(255, 255, 255)", "rgb(0, 0, 0)", "none"]
