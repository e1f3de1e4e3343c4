"""That what is shown follows from the rows on disk and from nothing else."""

from pathlib import Path

from saliency_bench.cli import main as cli


def assert_made_again_from_its_rows(folder: Path, capsys) -> None:
    """`report` writes every file of a folder of `trust` or `sanity` as it was, from rows and manifest alone."""
    made = {path: path.read_bytes() for path in folder.rglob("*.*")}
    kept = {"rows.csv.gz", "manifest.json"}
    for path in made:
        if path.name not in kept:
            path.unlink()
    capsys.readouterr()
    assert cli.main(["report", str(folder)]) == 0
    assert f"Written to {folder}" in capsys.readouterr().out
    again = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert again.keys() == made.keys()
    assert [path.name for path in made if again[path] != made[path]] == []
