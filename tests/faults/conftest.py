"""What the fault tests counted is printed at the end of the run."""

import pytest


@pytest.fixture
def counted(record_property):
    """Says what was done and what came of it; the end of the run repeats it."""

    def say(text: str) -> None:
        record_property("faults", text)

    return say
