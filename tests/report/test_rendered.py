"""The report in a real browser: what it asks for, how it looks at two sizes in light and dark, what is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stages.report.croissant import croissant
from stages.report.gather import gather
from tests.browser import Browser, Page
from tests.stages.report_project import HOSTILE, build_project
from tests.stages.report_stage import Stage, rendered

pytestmark = pytest.mark.slow

READABLE = 4.5  # contrast that WCAG AA asks of text
LOOKS = [(1440, False), (1440, True), (390, False), (390, True)]

# Every element with text of its own: its colour against what is painted behind it, through all translucent layers.
CONTRAST = """
(() => {
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].map((v, i) => i < 3 ? v : v / 255);
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = element => element === null
    ? [255, 255, 255, 1]
    : over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll('body, body *')) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || element.tagName === 'TITLE' || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), ground = behind(element);
    const ink = over(rgba(element instanceof SVGElement ? style.fill : style.color), ground);
    const [a, b] = [light(ink), light(ground)];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName + '.' + element.className + ' ' + text]);
  }
  return found.sort((a, b) => a[0] - b[0]);
})()
"""  # noqa: E501


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a project whose captions, keywords, licences and a class name are hostile."""
    root = tmp_path_factory.mktemp("project")
    build_project(root)
    path = root / "report.html"
    path.write_text(rendered(root))
    return path


def contrasts(page: Page) -> list[Any]:
    found: list[Any] = page.evaluate(CONTRAST)
    return found


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_it_loads_nothing_runs_nothing_and_fits(
    browser: Browser, report: Path, width: int, dark: bool
) -> None:
    page = browser.open(report, width=width, dark=dark)
    outside = [address for address in page.requests if not address.startswith("data:image/")]
    assert outside == [report.as_uri()]
    assert page.errors == []
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.title").startswith("resnet8, distilled from wrn-16-2")
    worst = contrasts(page)[0]
    assert worst[0] >= READABLE, worst
    page.close()


@pytest.mark.parametrize("width", [1440, 390])
def test_a_class_name_without_a_blank_widens_no_page_and_hides_no_column(
    browser: Browser, report: Path, width: int
) -> None:
    long = report.with_name("long.html")
    long.write_text(report.read_text().replace("&lt;b&gt;ship&lt;/b&gt;", "x" * 180))
    assert long.read_text() != report.read_text()
    page = browser.open(long, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widest = "Math.max(...[...document.querySelectorAll('td, tbody th')].map(e => e.offsetWidth))"
    assert page.evaluate(widest) <= 700
    tallest = "Math.max(...[...document.querySelectorAll('.turned')].map(e => e.offsetHeight))"
    assert page.evaluate(tallest) <= 300
    page.close()


def test_hostile_captions_stay_text(browser: Browser, report: Path) -> None:
    """Nothing is blocked by the policy either: there is nothing to block."""
    bare = report.with_name("without_policy.html")
    bare.write_text(
        re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text())
    )
    assert bare.read_text() != report.read_text()
    page = browser.open(bare)
    assert [a for a in page.requests if not a.startswith("data:image/")] == [bare.as_uri()]
    assert page.errors == []
    assert page.evaluate("document.querySelectorAll('script, [onerror], [onload]').length") == 0
    shown = page.evaluate("document.body.textContent")
    assert "<script>alert(1)</script>" in shown, "the hostile licence is shown as it is written"
    page.close()


def test_croissant_may_be_put_into_a_page(browser: Browser, report: Path) -> None:
    """As search engines want it; a hostile licence in it neither runs nor loads anything."""
    text = croissant(gather(Stage(report.parent)))
    site = report.with_name("site.html")
    site.write_text(
        f'<meta charset="utf-8"><script type="application/ld+json">{text}</script><p>end'
    )
    page = browser.open(site)
    assert page.requests == [site.as_uri()]
    assert page.errors == []
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    licences = page.evaluate("JSON.parse(document.scripts[0].textContent).license")
    assert HOSTILE in licences
    page.close()


def test_the_policy_blocks_what_would_slip_through(browser: Browser, report: Path) -> None:
    """Were escaping to fail one day, the page's own policy still loads nothing and runs nothing."""
    spoilt = report.with_name("spoilt.html")
    attack = (
        "<script>document.title = 'taken'</script>"
        "<img src='http://127.0.0.1:9/x.png' onerror='document.title = 1'>"
    )
    spoilt.write_text(report.read_text().replace("<main>", f"<main>{attack}"))
    page = browser.open(spoilt)
    assert page.evaluate("document.title").startswith("resnet8")
    assert len([error for error in page.errors if "Content Security Policy" in error]) >= 2
    page.close()


def test_every_picture_is_decoded_and_every_entry_of_the_menu_leads_somewhere(
    browser: Browser, report: Path
) -> None:
    page = browser.open(report)
    broken = """Promise.all([...document.images].map(async image => {
        image.closest('details')?.setAttribute('open', '');
        await image.decode();
        return image.naturalWidth > 0;
    })).then(found => [found.length, found.filter(whole => !whole).length])"""
    pictures, failed = page.evaluate(broken)
    assert pictures > 20
    assert failed == 0
    links = "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"
    targets = page.evaluate(links)
    assert {"funnel", "fit", "results", "experiments", "rebuild"} <= set(targets)
    for target in set(targets):
        assert page.evaluate(f"document.getElementById('{target}').tagName") == "SECTION"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.close()


def test_a_heading_is_not_hidden_by_the_menu_it_was_reached_from(
    browser: Browser, report: Path
) -> None:
    for width in (1440, 390):
        page = browser.open(report, width=width)
        page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
        page.evaluate("document.querySelector('nav a[href=\"#fit\"]').click()")
        page.wait_for("location.hash === '#fit' && window.scrollY > 100")
        top = page.evaluate("document.querySelector('#fit h2').getBoundingClientRect().top")
        menu = page.evaluate("document.querySelector('nav').getBoundingClientRect().bottom")
        assert menu <= top < 200
        page.close()


def test_paper_cuts_no_table_and_needs_no_ink_for_the_ground(
    browser: Browser, report: Path, tmp_path: Path
) -> None:
    page = browser.open(report, width=718, dark=True)  # px of A4 between the margins
    page.look(dark=True, media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate(
        "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > 719).length"
    ) == 0  # fmt: skip
    worst = contrasts(page)[0]
    assert worst[0] >= READABLE, worst
    held = (
        "[...document.querySelectorAll('table, figure')].map(e => getComputedStyle(e).breakInside)"
    )
    assert set(page.evaluate(held)) == {"avoid"}
    page.pdf(tmp_path / "report.pdf")
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes())
    assert 4 <= len(pages) <= 20
    page.close()
