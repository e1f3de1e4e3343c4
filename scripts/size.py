#!/usr/bin/env python3
"""Prints the size of the package: code lines, the largest files and functions, names at its root, import floors.

A code line is one that holds more than space, a comment or a docstring.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(text: str) -> int:
    """The lines of a module that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def functions(text: str, where: str) -> Iterator[tuple[int, str]]:
    """The length of every function with its docstring, and its name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or 0) - node.lineno + 1, f"{where} {node.name}"


def main() -> None:
    """Prints it."""
    from test_layers import FLOORS

    package = ROOT / "saliency_bench"
    texts = {
        str(path.relative_to(package)): path.read_text("utf-8") for path in package.rglob("*.py")
    }
    names = {path.name for path in package.iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    print(f"{sum(map(code_lines, texts.values())):,} code lines in {len(texts)} files")
    print(f"{len(names)} names at the root, {len(FLOORS)} floors")
    files = [(len(text.splitlines()), name) for name, text in texts.items()]
    found = [one for name, text in texts.items() for one in functions(text, name)]
    for title, limit, sizes in (("files", 400, files), ("functions", 60, found)):
        over = sorted((size, name) for size, name in sizes if size > limit)
        print(f"\n{len(over)} {title} of more than {limit} lines; the largest:")
        for size, name in sorted(sizes, reverse=True)[:10]:
            print(f"{size:6} {name}")


if __name__ == "__main__":
    main()
