"""What MkDocs does to the pages: the README is the first one, notebooks become pages, lists come from the registries.

Files of the repository that the site lacks are named. The pages themselves are read in the repository too, where their
links to code and results work as they are.
"""

import json
import posixpath
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PARTS = re.compile(r"<!-- parts: (\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README as the first page, and a page for each notebook, which can be downloaded there."""
    text = LINK.sub(_from_root, (ROOT / "README.md").read_text("utf-8"))
    files.append(File.generated(config, "index.md", content=text))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        notebook = json.loads((ROOT / "docs" / file.src_uri).read_text("utf-8"))
        page = notebook_page(notebook, posixpath.basename(file.src_uri))
        place = f"{file.src_uri.removesuffix('.ipynb')}.md"
        files.append(File.generated(config, place, content=page))
    return files


def notebook_page(notebook: Mapping[str, Any], name: str) -> str:
    """A notebook (nbformat 4) as Markdown, with what its cells showed."""
    blocks = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
        elif cell["cell_type"] == "code":
            blocks += [f"```python\n{source}\n```", *map(_shown, cell["outputs"])]
    download = f'<a href="../{name}" download>This page as a notebook</a>'
    return "\n\n".join([*blocks[:1], download, *blocks[1:]]) + "\n"


def _shown(output: Mapping[str, Any]) -> str:
    """What a cell showed: a picture, HTML as it is, or text."""
    kinds = {kind: "".join(lines) for kind, lines in output.get("data", {}).items()}
    if picture := kinds.get("image/png"):
        return f'<img class="shown" alt="What the lines above draw" src="data:image/png;base64,{picture.strip()}">'
    if html := kinds.get("text/html"):
        without_style = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)
        return '<div class="shown">\n' + re.sub(r"\n\s*", "\n", without_style) + "\n</div>"
    text = kinds.get("text/plain") or "".join(output.get("text", ()))
    return f'<pre class="shown">{escape(text.rstrip())}</pre>'


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
            page_of_notebook = target.replace(".ipynb", ".md")
            return match[0].replace(f"]({target})", f"]({page_of_notebook})")
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
