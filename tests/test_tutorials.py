"""The tutorials: notebooks that are kept as they ran, are pages of the site, and run from top to bottom."""

import os
import re
from pathlib import Path

import pytest
from loading import ROOT, code_of, loaded, read_notebook, run_notebook, shown

FOLDER = ROOT / "docs" / "tutorials"
#: What replaces the cell of parameters, so that a run is short; "" where there is none.
PARAMETERS = {
    "explain_one_decision": "",
    "compare_methods": "n_train, n_epochs, n_texts = 300, 1, 4",
    "sweep_steps_and_noise": "n_texts = 2",
    "validate_my_implementation": "n_texts = 1",
    "decoders": "",
}
LARGEST = 300_000  # bytes
#: The user's cache, in which converted models are; tests get one of their own later (see conftest).
CACHE = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))


def read(name):
    return read_notebook(FOLDER / f"{name}.ipynb")


def test_every_tutorial_is_listed_here_and_in_the_sites_navigation():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(PARAMETERS)
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert re.findall(r"tutorials/(\w+)\.md", text) == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tutorial_is_kept_as_it_ran_is_small_and_names_no_machine(name):
    code = code_of(read(name))
    assert sum(bool(cell.outputs) for cell in code) >= len(code) / 2
    assert (FOLDER / f"{name}.ipynb").stat().st_size <= LARGEST


@pytest.mark.parametrize("name", PARAMETERS)
def test_where_a_tutorial_links_to_there_is_something(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)", cell.source):
                assert "://" in target or (FOLDER / target).exists(), target


@pytest.mark.thorough
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tutorial_runs_from_top_to_bottom(name, monkeypatch):
    if name == "decoders":
        from saliency_bench.models import preparing

        monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
        if not preparing.is_prepared("smollm2"):
            pytest.skip("smollm2 is not prepared: saliency-bench models prepare smollm2")
    path = FOLDER / f"{name}.ipynb"
    again = run_notebook(path, PARAMETERS[name] or None, monkeypatch)
    kept = read_notebook(path)
    kinds, again_kinds = ([shown(cell).keys() for cell in code_of(one)] for one in (kept, again))
    assert again_kinds == kinds


def test_a_notebook_as_a_page_has_every_cell_and_what_it_showed(monkeypatch):
    pytest.importorskip("mkdocs", reason="the site needs the extra: docs")
    hooks = loaded(ROOT / "docs" / "site_hooks.py")
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["a < b\n"]},
        {"output_type": "display_data", "data": {"image/png": "QUJD", "text/plain": "<Figure>"}},
        {
            "output_type": "execute_result",
            "data": {"text/html": "<style scoped>x</style><table>\n\n    <tr></tr></table>"},
        },
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "more"]},
        {"cell_type": "code", "source": "x = 1", "outputs": outputs},
        {"cell_type": "code", "source": "y = 2", "outputs": []},
    ]
    page = hooks.notebook_page({"cells": cells}, "name.ipynb")
    assert page.startswith("# Title\nmore\n\n")
    assert 'href="../name.ipynb"' in page
    places = [
        page.index(part)
        for part in ("```python\nx = 1\n```", "a &lt; b", "base64,QUJD", "<table>\n<tr>", "y = 2")
    ]
    assert places == sorted(places)
    assert "<style" not in page and "<Figure>" not in page
