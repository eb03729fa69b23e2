"""The report in a browser: nothing is loaded or logged, nothing overflows, and axe finds no fault."""

import asyncio

import numpy as np
import pytest

from browser import FAULTS, OVERFLOW, SIZES, needs_chromium, open_browser, source_of_axe
from farvox.cli.main import main

pytestmark = [pytest.mark.slow, needs_chromium]


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
    """The source of axe-core."""
    return source_of_axe(tmp_path_factory.mktemp("axe"))


async def open_page(page, size, scheme, folder, scripts, media=""):
    """Open a page; returns what was logged, the addresses asked for, what the scripts give, a picture."""
    async with open_browser(folder) as tab:
        await tab.open(page.resolve().as_uri(), size, scheme, media)
        found = [await tab.value_of(script) for script in scripts]
        return tab.logged, tab.asked, found, await tab.picture()


SMALLEST = """Math.min(...[...document.querySelectorAll("svg text")].map(
    each => each.getBoundingClientRect()).filter(each => each.width >= each.height).map(
    each => each.height))"""


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
