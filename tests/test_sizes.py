"""Limits of size: files and functions can be read at once, and results/ stays small."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SIZE = runpy.run_path(str(ROOT / "scripts" / "size.py"))
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (ROOT / "saliency_bench").rglob("*.py")
}


def too_long(sources):
    """Files of more than 400 lines, and functions of more than 60."""
    files = [name for name, text in sources.items() if len(text.splitlines()) > 400]
    functions = [one for name, text in sources.items() for one in SIZE["functions"](text, name)]
    return files + [name for lines, name in functions if lines > 60]


def test_no_file_has_more_than_400_lines_and_no_function_more_than_60():
    assert too_long(SOURCES) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [("x = 1\n" * 401, "long.py"), ("def f():\n" + "    x = 1\n" * 60, "long.py f")],
)
def test_what_is_longer_is_seen(text, name):
    assert too_long({"long.py": text}) == [name]


def test_results_have_at_most_25_megabytes_in_500_files_of_6():
    """`results/runs` is ignored by git."""
    results = ROOT / "results"
    sizes = [
        path.stat().st_size
        for path in results.rglob("*")
        if path.is_file() and path.relative_to(results).parts[0] != "runs"
    ]
    assert len(sizes) <= 500 and sum(sizes) <= 25e6 and max(sizes) <= 6e6


def test_the_example_that_follows_runs_has_at_most_60_lines_of_code():
    text = (ROOT / "examples" / "trackers.py").read_text("utf-8")
    assert SIZE["code_lines"](text) <= 60
