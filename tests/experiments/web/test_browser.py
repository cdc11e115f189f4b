"""The pages as a person uses them, in Chromium without a window."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import SCREENS, WAIT, browsing, overflow, watched
from tests.experiments.web.conftest import HOSTILE, LIMITS, NUM_PLACES, running
from tests.experiments.web.files import EPS, bomb, cut_jpeg

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture
def complaints():
    """What the browser says on its console, errors of scripts, and addresses of other hosts."""
    return []


@pytest.fixture
def open_page(browser, served, complaints):
    contexts = []

    def opened(width=1280, height=900, scheme="light", scripts=True):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        return watched(context.new_page(), (served.address,), complaints)

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def _names(page):
    return page.locator("#results .name").all_inner_texts()


def _drag(page, start, end):
    shown = page.locator("#preview").bounding_box()
    at = [(shown["x"] + x * shown["width"], shown["y"] + y * shown["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=3)
    page.mouse.up()


@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS, ids=["desktop", "phone"])
def test_a_person_searches(open_page, served, width, height, scheme):
    page = open_page(width, height, scheme)
    page.goto(served.address)
    page.set_input_files("#photo", served.photos / "place 2 view 1.png")
    page.wait_for_selector("#results")
    assert _names(page)[0] == "place 2 view 1.png"

    _drag(page, (0.1, 0.1), (0.6, 0.9))
    sides = [float(side) for side in page.input_value("#box").split(",")]
    assert sides == pytest.approx([9.6, 7.2, 57.6, 64.8], abs=1.5)
    assert page.locator("#part").is_visible()
    with page.expect_response("**/results"):
        page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("button", name="Whole photo").click()

    with page.expect_response("**/results"):
        page.get_by_label("Query expansion").check()
    page.wait_for_selector("#answer:not([aria-busy])")
    scores = page.locator("#results .score").all_inner_texts()
    assert float(scores[0]) == max(map(float, scores))

    marked = [name for name in _names(page) if name.startswith("place 5")][:2]
    for name in marked:
        page.locator("li.result", has_text=name).get_by_label("Right").check()
    with page.expect_response("**/results"):
        page.get_by_role("button", name="Search again with the marked ones").click()
    page.wait_for_selector("#answer:not([aria-busy])")
    assert {name for name in _names(page)[:3]} & set(marked)
    assert page.locator("#results input:checked").count() == 2

    with page.expect_response("**/results"):
        page.get_by_role("button", name="Next").click()
    page.wait_for_selector("text=Page 2 of 2")
    with page.expect_response("**/results"):
        page.get_by_role("button", name="Previous").click()
    page.wait_for_selector("text=Page 1 of 2")
    assert overflow(page) == 0


def test_points_are_drawn_on_both_photos(open_page, served):
    pytest.importorskip("cv2")
    page = open_page()
    page.goto(f"{served.address}/?row={served.site.served.names.index('place 2 view 1.png')}")
    page.get_by_role("button", name="Matched points with place 2 view 2.png").click()
    page.wait_for_selector("#matches-drawing svg")
    lines = page.locator("#matches-drawing line").count()
    assert lines >= 5
    assert page.locator("#matches-text").inner_text() == f"{lines} matched points agree with one geometry."
    page.keyboard.press("Escape")
    assert not page.locator("#matches").is_visible()


def test_a_photo_is_dropped_or_pasted(open_page, served):
    page = open_page()
    for kind, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.goto(served.address)
        picture = list((served.photos / "place 4 view 0.png").read_bytes())
        page.evaluate(
            """([kind, field, picture]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(picture)], "x.png", {type: "image/png"}));
                const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new Kind(kind, {[field]: data, bubbles: true, cancelable: true}));
            }""",
            [kind, field, picture],
        )
        page.wait_for_selector("#results")
        assert _names(page)[0] == "place 4 view 0.png"


def test_the_keyboard_is_enough(open_page, served):
    page = open_page()
    page.goto(f"{served.address}/photos?name=view 3")
    page.get_by_role("link", name="place 1 view 3.png").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#results")
    page.get_by_label("Part of the photo").focus()
    page.keyboard.type("5,5,90,70")
    with page.expect_response("**/results"):
        page.keyboard.press("Enter")
    page.wait_for_selector("#answer:not([aria-busy])")
    assert _names(page)[0] == "place 1 view 3.png"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    assert {"step", "right", "Neighbours", "Search"} <= reached
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input:not([type=hidden]), img")].filter((one) =>
            one.checkVisibility() && !(one.getAttribute("aria-label") || one.alt || one.textContent.trim()
            || one.labels?.length || one.querySelector("img[alt]"))).map((one) => one.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_collection_at_a_glance(open_page, served, width, scheme):
    page = open_page(width, 844, scheme)
    page.goto(f"{served.address}/collection")
    page.wait_for_selector("svg circle")
    page.wait_for_selector("text=1 group.")
    assert page.locator("h3").count() == NUM_PLACES + 1
    assert page.locator("svg image").count() >= 3
    assert overflow(page) == 0
    page.locator("svg image").first.click()
    page.wait_for_selector("#results")


def test_a_hostile_name_is_only_shown(open_page, served):
    page = open_page()
    page.goto(f"{served.address}/?row={served.site.served.names.index(HOSTILE)}")
    assert page.locator("#chosen").inner_text() == HOSTILE
    page.goto(f"{served.address}/?row={served.site.served.names.index('place 3 view 1.png')}")
    assert HOSTILE in _names(page)
    assert page.locator("img[src='x']").count() == 0


def test_without_scripts_the_page_searches_too(open_page, served):
    page = open_page(scripts=False)
    page.goto(served.address)
    page.set_input_files("#photo", served.photos / "place 2 view 1.png")
    page.get_by_label("Diffusion").check()
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector("#results")
    assert _names(page)[0].startswith("place 2")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.txt", b"hello", "got 'not an image'"),
        ("bomb.png", bomb(10_000, 10_000), "got 'too large: 10000 x 10000 pixels, at most 64 million'"),
        ("cut.jpg", cut_jpeg(), "got 'truncated'"),
        ("vector.jpg", EPS, "got 'not an image'"),
        ("huge.jpg", bytes(int(LIMITS.megabytes * 1e6) + 1), "expected at most 2 MB, got 2.0 MB"),
        ("empty.jpg", b"", "got an empty one"),
    ],
    ids=["text", "bomb", "cut", "eps", "huge", "empty"],
)
def test_what_is_wrong_is_told_beside_the_field(open_page, served, name, content, told):
    page = open_page()
    page.goto(served.address)
    page.set_input_files("#photo", {"name": name, "mimeType": "image/jpeg", "buffer": content})
    page.locator("#photo-message:not(:empty)").wait_for()
    assert told in page.locator("#photo-message").inner_text()
    assert page.locator("#results").count() == 0
    page.set_input_files("#photo", served.photos / "place 2 view 1.png")  # and the page goes on
    page.wait_for_selector("#results")
    assert page.locator("#photo-message").inner_text() == ""
    page.fill("#box", "500,500,600,600")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#box-message:not(:empty)").wait_for()
    assert "expected a part of the 96 x 72 photo" in page.locator("#box-message").inner_text()


def test_a_server_that_stops_is_told(browser, network, extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "top")
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    with running(network, tmp_path / "top") as own:
        page.goto(own.address)
        page.set_input_files("#photo", own.photos / "place 2 view 1.png")
        page.wait_for_selector("#results")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#other-message:not(:empty)").wait_for()
    assert page.locator("#other-message").inner_text().startswith("The server does not answer; ")
    page.close()


def test_the_command_serves_until_it_is_interrupted(network, extracted, tmp_path):
    from cnnimretrieval.networks.model_folder import save

    save(network, tmp_path / "model")
    shutil.copytree(extracted / "dir", tmp_path / "dir")
    words = [
        sys.executable,
        "-m",
        "experiments.cli",
        "serve",
        tmp_path / "model",
        tmp_path / "dir",
        "--port",
        "0",
    ]
    root = Path(__file__).resolve().parents[3]
    command = subprocess.Popen(
        [*words, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert command.stdout is not None
    said = command.stdout.readline()
    try:
        assert said.startswith("29 photos at http://127.0.0.1:")
        import httpx

        assert httpx.get(said.split()[3], timeout=60.0).status_code == 200
    finally:
        command.send_signal(2)
        assert command.wait(60) == 0
        command.stdout.close()
