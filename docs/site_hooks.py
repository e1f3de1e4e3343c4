"""What MkDocs does to the pages: the README is the first one, lists come from the registries, files of the repository are named.

The pages themselves are read in the repository too, where their links to code and results work as they are.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PARTS = re.compile(r"<!-- parts: (\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README as the first page."""
    text = LINK.sub(_from_root, (ROOT / "README.md").read_text("utf-8"))
    files.append(File.generated(config, "index.md", content=text))
    return files


def _from_root(match: re.Match[str]) -> str:
    """A link of the README as a page of docs/ has it."""
    image, text, target = match.groups()
    if "://" in target or target.startswith("#"):
        return match[0]
    moved = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
    return f"{image}[{text}]({moved})"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in lists, and names files that are in the repository and not on the site."""
    markdown = PARTS.sub(lambda match: _listed(match[1]), markdown)
    markdown = markdown.replace("<!-- help -->", f"```text\n{_help()}```")
    folder = posixpath.dirname(page.file.src_uri)

    def named(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        place = posixpath.normpath(posixpath.join(folder, target.split("#")[0]))
        if "://" in target or not place.startswith("../"):
            return match[0]
        where = place.removeprefix("../")
        label = "figure" if image else text
        return f'<abbr title="In the repository: {where}">{label}</abbr>'

    return LINK.sub(named, markdown)


def _listed(group: str) -> str:
    """A table of all parts of a group, methods and metrics by family."""
    from saliency_bench.api import parts

    describe, names = parts.GROUPS[group]
    families = parts.listed(group) if group in parts.PARTS else {"": list(names())}
    blocks = []
    for heading, members in families.items():
        rows = [_row(describe(name)) for name in members]
        lines = ["| Name | What it is | Parameters |", "|---|---|---|", *rows]
        blocks.append("\n".join([*([f"### {heading}", ""] if heading else []), *lines]))
    return "\n\n".join(blocks)


def _row(part: Any) -> str:
    keys = ", ".join(f"`{key.name}={key.default}`" for key in part.parameters)
    return f"| `{part.name}` | {part.about} | {keys} |".replace("\n", " ")


def _help() -> str:
    return (ROOT / "saliency_bench" / "cli" / "help.txt").read_text("utf-8")
