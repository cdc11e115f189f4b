"""The report as people open it, in Chromium: from its file, at desktop and phone width, and printed."""

import pytest

from experiments.report.page import write_report
from tests.browser import SCREENS, browsing, overflow, watched
from tests.experiments.test_report import finished_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(finished_run(tmp_path_factory.mktemp("run"))).parent


@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS, ids=["desktop", "phone"])
def test_the_report_opens_without_a_complaint(report, width, height, scheme):
    complaints = []
    with browsing() as browser:
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        watched(page, (report.as_uri(),), complaints)
        page.goto((report / "index.html").as_uri())
        assert overflow(page) == 0
        links = page.locator("nav.contents a")
        for number in range(links.count()):
            links.nth(number).click()
            target = page.url.partition("#")[2]
            assert (
                page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", target)
                < height
            )
        page.evaluate("document.querySelectorAll('img').forEach(one => { one.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(one => one.complete)")
        assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
        unnamed = page.evaluate("[...document.images].filter(one => !one.alt).length")
        assert unnamed == 0
        assert page.pdf(format="A4").startswith(b"%PDF")
        page.locator(".models a").first.click()
        page.wait_for_selector("canvas")
        assert overflow(page) == 0
    # Drivers without a GPU warn that the 3D view is slow.
    assert [one for one in complaints if not one.startswith("warning: ")] == []
