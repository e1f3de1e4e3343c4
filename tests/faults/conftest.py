"""What faults are compared with."""

from types import SimpleNamespace

import pytest
from commands import command, run, tables, texts


@pytest.fixture(scope="session")
def undisturbed(folder, tmp_path_factory):
    """The study of `commands`, run to its end by one process that nobody disturbed: where its texts are, its tables."""
    place = tmp_path_factory.mktemp("undisturbed")
    texts(place)
    done = run(command(folder, place, "whole"))
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(place=place, tables=tables(place / "whole"))
