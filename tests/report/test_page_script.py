"""The page's script sorts a table by the heading that is clicked, as a browser runs it."""

import re
import subprocess
from pathlib import Path

import pytest
from report.test_payloads import CHROMIUM, NO_CHROMIUM

from saliency_bench.report import html

SCRIPT = Path(html.__file__).with_name("page.js").read_text("utf-8")
#: Method and SRG, as the page writes them: the interval stands in an element of its own.
ROWS = (("B", "0.1"), ("C", "–"), ("A", "0.3"), ("D", "-0.2"))


def order_after(clicks: str, tmp_path: Path) -> str:
    """The first column after these headings were clicked, by number: "01" is the first, then the second."""
    body = "".join(
        f"<tr><th>{name}</th><td>{srg}<span> [0, 1]</span></td></tr>" for name, srg in ROWS
    )
    table = (
        f"<table><thead><tr><th>Method</th><th>SRG</th></tr></thead><tbody>{body}</tbody></table>"
    )
    clicked = "".join(
        f"document.querySelectorAll('th button')[{place}].click();" for place in clicks
    )
    page = tmp_path / "page.html"
    page.write_text(f"<meta charset=utf-8>{table}<script>{SCRIPT};{clicked}</script>", "utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    return "".join(re.findall(r"<tr><th>(\w)</th>", done.stdout))


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize(
    ("clicks", "expected"),
    [
        ("", "BCAD"),
        ("0", "ABCD"),  # words from A on
        ("00", "DCBA"),
        ("1", "ABDC"),  # numbers from the largest on, what is missing last
        ("11", "DBAC"),
        ("10", "ABCD"),
    ],
)
def test_a_click_on_a_heading_sorts_by_its_column(clicks, expected, tmp_path):
    assert order_after(clicks, tmp_path) == expected
