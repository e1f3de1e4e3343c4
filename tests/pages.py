"""The README and the pages of docs/, their blocks of code, and the commands in these."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in (
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))
)}  # fmt: skip
PROGRAMS = ("saliency-bench", "./scripts/bench")


def blocks(kind):
    """(page, block) of all pages, in order."""
    return [
        (name, block)
        for name, page in PAGES.items()
        for block in re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)
    ]


def commands():
    """(page, words) of every command in a shell block, lines that go on being joined."""
    for page, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield page, words
