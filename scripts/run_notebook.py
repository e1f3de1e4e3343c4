"""Runs a notebook in its own folder and writes it back with what it showed.

    python scripts/run_notebook.py examples/article.ipynb

Times and names of the machine are left out, so that equal results give equal bytes. Needs the extra `test`.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def run(path: Path, parameters: str | None = None) -> nbformat.NotebookNode:
    """The notebook with its outputs; `parameters` replaces the cell with that tag."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cell.source = parameters
    NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # what libraries say of the machine is no result
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for output in cell.outputs:  # a text beside a table repeats it, and may name a folder
                if len(output.get("data", {})) > 1:
                    output.data.pop("text/plain", None)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    nbformat.write(run(Path(sys.argv[1])), sys.argv[1])
