"""What is changed while libraries are imported is given back."""

import gc

import pytest

from saliency_bench.cli.progress import importing, uncollected


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
