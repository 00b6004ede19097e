"""`feedline report` in a real browser: nothing is missing, nothing overflows, nothing is asked for."""

import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser is installed (one of {', '.join(NAMES)})")

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="[^"]*"/>')
# What the page looks like once it is laid out, written into it for --dump-dom.
MEASURE = """<script>addEventListener("load", () => {
  const wide = document.documentElement.clientWidth;
  const inside = (node) => node.closest(".wide") !== null || node.tagName === "svg" || node.closest("svg") !== null;
  const out = document.createElement("pre");
  out.id = "measured";
  out.textContent = JSON.stringify({
    wide: innerWidth,
    scrolled: document.documentElement.scrollWidth,
    pictures: [...document.images].map((image) => [image.naturalWidth, image.clientWidth, image.alt]),
    charts: [...document.querySelectorAll("svg")].map((svg) => [svg.clientWidth, svg.clientHeight]),
    over: [...document.body.querySelectorAll("*")].filter((node) => !inside(node) && node.getBoundingClientRect().right > wide + 1)
      .map((node) => node.outerHTML.slice(0, 80)),
  });
  document.body.append(out);
});</script></head>"""


def browse(page, *flags, width=1200):
    """Opens a page; gives what the browser printed, and what it logged."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    ended = subprocess.run(
        [*command, f"--window-size={width},900", *flags, page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def page(feedline, demo_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    feedline.ok("report", demo_run, "--out", path)
    return path


def test_the_page_runs_nothing_and_logs_nothing(page, tmp_path):
    assert POLICY.search(page.read_text())
    assert "CONSOLE" not in browse(page, "--dump-dom")[1]
    # A script in it would be stopped, and that would be logged.
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(page.read_text().replace("</head>", MEASURE))
    dom, log = browse(spoilt, "--dump-dom")
    assert 'id="measured"' not in dom.partition("</script>")[2] and "CONSOLE" in log


@pytest.mark.parametrize("width", [390, 1200])
def test_every_picture_is_there_and_nothing_overflows(page, tmp_path, width):
    measured = tmp_path / "measured.html"
    measured.write_text(POLICY.sub("", page.read_text()).replace("</head>", MEASURE))
    dom, _ = browse(measured, "--dump-dom", width=width)
    found = json.loads(re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)[1].replace("&amp;", "&"))
    assert found["wide"] == width and found["scrolled"] <= width, found
    assert found["over"] == []
    assert len(found["pictures"]) >= 12 and len(found["charts"]) == 3
    assert all(natural > 0 and shown > 50 and alt for natural, shown, alt in found["pictures"]), found["pictures"]
    assert all(chart_width > 200 and height > 100 for chart_width, height in found["charts"]), found["charts"]


def test_the_page_follows_a_dark_scheme(page, tmp_path):
    corners = []
    for scheme in (1, 0):  # light, dark
        shot = tmp_path / f"{scheme}.png"
        browse(page, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}", width=390)
        with Image.open(shot) as picture:
            corners.append(picture.convert("L").getpixel((3, 3)))
    assert corners[0] > 240 and corners[1] < 40, corners
