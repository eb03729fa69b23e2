"""The page of the service in Chromium, by Playwright, with a file for a microphone.

FARVOX_IMAGES=docs/images makes the screenshots of the docs anew.
"""

import base64
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from shutil import copytree

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("playwright", reason="needs playwright, of the extra dev")

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from browser import CHROMIUM, FAULTS, OVERFLOW, SIZES, needs_chromium, source_of_axe
from farvox.synthetic.sample import make_sample
from farvox.zoo.card import Card
from service.client import TOKEN, serving

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def service(model_folder, tmp_path_factory):
    """A service whose threshold lies between ``a0`` with ``a1`` and ``a0`` with ``b0``."""
    folder = tmp_path_factory.mktemp("threshold") / "small"
    copytree(model_folder, folder)
    replace(Card.load(folder), threshold=0.9975).save(folder)
    with serving(folder, tmp_path_factory.mktemp("service")) as running:
        yield running


@contextmanager
def chromium(playwright, heard):
    """A browser whose microphone hears a file, over and over."""
    flags = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={heard}"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="module")
def playwright():
    expect.set_options(timeout=120_000)
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright, voices):
    with chromium(playwright, voices / "a0.wav") as running:
        yield running


@contextmanager
def opened(browser, service, size="desktop", scheme="light", *, allowed=("microphone",), logs=()):
    """The page, in a new session; at the end, it has logged no more and asked nobody else for anything."""
    root = f"http://127.0.0.1:{service.port}/"
    width, height = SIZES[size]
    phone = {"has_touch": True, "is_mobile": True} if size == "phone" else {}
    shape = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, **phone}
    context = browser.new_context(**shape, permissions=list(allowed))
    try:
        page, logged, asked = context.new_page(), [], []
        page.set_default_timeout(120_000)
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(root)
        expect(page.locator("#model")).to_contain_text("Model")
        yield page
        assert [each for each in asked if not each.startswith((root, "data:", f"blob:{root}"))] == []
        assert [each for each in logged if not any(known in each for known in logs)] == []
        kept = "[document.cookie, localStorage.length, sessionStorage.length]"
        assert page.evaluate(kept) == ["", 0, 0]
    finally:
        context.close()


def side(page, name):
    return page.get_by_role("region", name=name)


def choose(page, name, *files):
    """Choose files for a side, and wait until they are drawn."""
    region = side(page, name)
    region.get_by_label("Choose or drop").set_input_files(files)
    expect(region.locator(".facts").last).to_have_text(re.compile(r"^\d+\.\d s"))


def said(page, text):
    expect(page.get_by_role("status")).to_have_text(text)


def test_two_files_are_compared(browser, service, voices):
    with opened(browser, service) as page:
        expect(page.get_by_text("a replayed or synthetic voice is not detected")).to_be_visible()
        choose(page, "Known voice", voices / "a0.wav")
        for other, word in (("a1", "Same speaker"), ("b0", "Different speakers")):
            choose(page, "Voice in question", voices / f"{other}.wav")  # instead of the one before
            page.get_by_role("button", name="Compare").click()
            sides = [("enrol", voices / "a0.wav"), ("test", voices / f"{other}.wav")]
            _, told, _ = service.send("verify", *((field, path.read_bytes()) for field, path in sides))
            said(page, f"{word}: score {told['score']:.4f}")
            scale = page.locator("#details").get_by_role("img")
            name = f"Score {told['score']:.4f}, from the threshold 0.9975 on the same speaker"
            expect(scale).to_have_accessible_name(name)
            expect(page.locator("dl")).to_contain_text("Probability99.3 % the same")
            expect(page.locator("dl")).to_contain_text(f"a0.wav with {other}.wav")
            notes = side(page, "Voice in question").get_by_role("listitem").get_by_role("listitem")
            assert len(told["test"][0]["notes"]) == 0
            expect(notes).to_have_text(["No notes."])
        wave = page.get_by_role("img", name="Waveform of a0.wav")
        expect(wave).to_be_visible()
        assert len(set(re.findall(r"v([\d.]+)", wave.locator("path").get_attribute("d")))) > 50
        expect(page.locator("#history li")).to_have_text([re.compile("Different"), re.compile("Same")])
        page.get_by_role("button", name="Clear the history").click()
        expect(page.locator("#history li")).to_have_count(0)


def test_a_recording_by_the_microphone_is_compared(browser, service, voices):
    with opened(browser, service) as page:
        region = side(page, "Known voice")
        region.get_by_role("button", name="Record: Known voice").click()
        expect(region.locator(".time")).to_have_text(re.compile(r"^[2-9]\.\d s of at most 30 s"))
        region.get_by_role("button", name="Stop: Known voice").click()
        expect(region.get_by_role("heading", level=3)).to_have_text("recording 1")
        expect(region.get_by_role("img", name="Waveform of recording 1")).to_be_visible()
        page.evaluate(
            """text => {
                const moved = new DataTransfer();
                const content = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
                moved.items.add(new File([content], "dropped.wav"));
                document.querySelector("[data-side=asked]").dispatchEvent(
                    new DragEvent("drop", {dataTransfer: moved, bubbles: true, cancelable: true}));
            }""",
            base64.b64encode((voices / "a1.wav").read_bytes()).decode(),
        )
        with page.expect_response("**/v1/verify") as answer:
            page.get_by_role("button", name="Compare").click()
        told = answer.value.json()
        said(page, re.compile(f"score {told['score']:.4f}"))
        [recorded] = told["enrol"]
        assert recorded["seconds"] >= 2 and recorded["num_channels"] == 1
        expect(page.locator("dl")).to_contain_text("recording 1 with dropped.wav")


def test_a_speaker_is_enrolled_and_identified_with_the_token(browser, service, voices):
    with opened(browser, service, "phone", logs=["401"]) as page:
        page.get_by_label("Enrol", exact=True).check()
        expect(side(page, "Voice in question")).to_be_hidden()
        choose(page, "Known voice", voices / "a0.wav", voices / "a1.wav")
        page.get_by_label("Name of the speaker").fill("<b>Anna</b>")
        page.get_by_label("Token of the service").fill("not this one")
        page.get_by_role("button", name="Enrol").click()
        expect(page.get_by_role("alert")).to_contain_text("a token is needed")
        said(page, "No answer.")
        page.get_by_label("Token of the service").fill(TOKEN)
        page.get_by_role("button", name="Enrol").click()
        said(page, re.compile(r"^<b>Anna</b> is enrolled with 2 recordings, \d"))
        expect(page.get_by_role("alert")).to_have_text("")
        page.get_by_label("Identify", exact=True).check()
        choose(page, "Voice in question", voices / "a0.wav")
        page.get_by_role("button", name="Identify").click()
        said(page, re.compile(r"^It is <b>Anna</b>: score 0\.99"))
        expect(page.get_by_role("cell").first).to_have_text("<b>Anna</b>")
        page.reload()
        expect(page.get_by_label("Token of the service")).to_have_value("")
        expect(page.locator("#history li")).to_have_count(0)


def test_the_keyboard_is_enough(browser, service, voices):
    with opened(browser, service) as page:
        order = []

        def tab_to(name):
            """Press Tab until what has that name, of all that is asked for, has the focus."""
            for _ in range(30):
                page.keyboard.press("Tab")
                script = "document.activeElement.ariaLabel || document.activeElement.textContent.trim()"
                order.append(page.evaluate(script))
                if order[-1].startswith(name):
                    return
            pytest.fail(f"{name!r} is not reached: {order}")

        tab_to("To the answer")
        for name, file in (("Known voice", "a0.wav"), ("Voice in question", "a1.wav")):
            tab_to(f"Choose or drop a file: {name}")
            choose(page, name, voices / file)  # by the browser's own dialog, which is not of the page
        tab_to("Compare")
        page.keyboard.press("Enter")
        said(page, re.compile("^Same speaker"))
        page.get_by_label("Compare", exact=True).focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_label("Name of the speaker")).to_be_visible()
        tab_to("Remove a0.wav")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Record: Known voice")).to_be_focused()
        tab_to("Enrol")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("Known voice: record, or choose a file.")
        expect(page.get_by_role("button", name="Record: Known voice")).to_be_focused()


def test_what_goes_wrong_is_said(browser, service, voices, tmp_path):
    (tmp_path / "no.wav").write_text("no audio")
    logs = ("422", "ERR_INTERNET_DISCONNECTED")
    with opened(browser, service, allowed=(), logs=logs) as page:
        go, alert = page.get_by_role("button", name="Compare"), page.get_by_role("alert")
        page.get_by_role("button", name="Record: Known voice").click()
        expect(alert).to_contain_text("No microphone: ")
        choose(page, "Known voice", voices / "a0.wav")
        asked = side(page, "Voice in question")
        asked.get_by_label("Choose or drop").set_input_files(tmp_path / "no.wav")
        expect(asked.locator(".facts")).to_have_text(re.compile("^The browser does not know"))
        go.click()
        expect(alert).to_contain_text("cannot be read as audio")
        page.context.set_offline(True)
        go.click()
        expect(alert).to_have_text("The service does not answer. Is it still running?")
        page.context.set_offline(False)
        choose(page, "Known voice", *[voices / f"a{n}.wav" for n in range(3)])
        choose(page, "Known voice", *[voices / f"b{n}.wav" for n in range(3)])
        expect(alert).to_have_text("Known voice: 5 recordings at most; remove one.")


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core."""
    return source_of_axe(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_and_nothing_overflows(browser, service, axe, voices, size, scheme):
    with opened(browser, service, size, scheme) as page:

        def faults():
            return [page.evaluate(OVERFLOW), page.evaluate(FAULTS)]

        page.evaluate(f"{axe};0")
        found = [faults()]
        choose(page, "Known voice", voices / "a0.wav")
        choose(page, "Voice in question", voices / "b0.wav")
        page.get_by_role("button", name="Compare").click()
        said(page, re.compile("^Different"))
        found.append(faults())
        page.get_by_label("Enrol", exact=True).check()
        page.get_by_role("button", name="Enrol").click()
        expect(page.get_by_role("alert")).to_contain_text("Give the name")
        found.append(faults())
        assert found == [[0, []]] * 3


def test_a_real_voice_through_the_microphone_and_the_screenshots_of_the_docs(playwright, campplus, tmp_path):
    folder = Path(os.environ.get("FARVOX_IMAGES", tmp_path))
    recordings = tmp_path / "recordings"
    make_sample(recordings)
    with (
        serving(campplus, tmp_path / "service", "--vad", "check") as service,
        chromium(playwright, recordings / "anna/near_2.wav") as browser,
    ):
        for size, scheme, asked, word in (
            ("desktop", "light", "Voice in question", "Same speaker"),
            ("phone", "dark", "Known voice", "Different speakers"),
        ):
            with opened(browser, service, size, scheme) as page:
                other = "anna/near_1.wav" if size == "desktop" else "ben/near_1.wav"
                given = {"Voice in question": "Known voice", "Known voice": "Voice in question"}[asked]
                choose(page, given, recordings / other)
                page.get_by_role("button", name=f"Record: {asked}").click()
                expect(side(page, asked).locator(".time")).to_have_text(re.compile(r"^[4-9]\."))
                page.get_by_role("button", name=f"Stop: {asked}").click()
                page.get_by_role("button", name="Compare").click()
                said(page, re.compile(f"^{word}"))
                shot = Image.open(BytesIO(page.screenshot(full_page=True)))
                path = folder / f"page-{size}.png"
                shot.convert("RGB").quantize(256).save(path, optimize=True)
                assert path.stat().st_size < 150_000
