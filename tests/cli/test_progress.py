"""Progress as bars; what is changed while libraries are imported is given back."""

import gc
import io

import pytest
from rich.console import Console

from saliency_bench.studies.progress import bars, importing, uncollected


@pytest.mark.parametrize("context", [importing, uncollected])
def test_garbage_is_collected_again_after_an_import_whatever_happens(context):
    with context():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), context():
        raise ImportError
    assert gc.isenabled()


def test_who_collects_no_garbage_is_left_alone():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_bar_says_the_time_until_all_numbers_are_there_on_a_narrow_terminal():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with bars(console) as show:
        show("loading the model", 0, 0)
        show("blocks", 0, 30)
        show("blocks", 12, 30, 200.0)
    text = stream.getvalue()
    assert "12/30 about 3 minutes left, then the report" in text
    assert "loading the model" in text
