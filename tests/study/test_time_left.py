"""The time left of a study: the rest of its blocks at their pace, and the texts that are timed, over and over."""

from types import SimpleNamespace

import pytest

from saliency_bench.models.ledger import MAPS, Ledger
from saliency_bench.studies.time_left import TimeLeft

pytestmark = pytest.mark.usefixtures("without_type_checks")


def study(ledger, n_texts, **timing):
    of_timing = SimpleNamespace(
        **{"enabled": True, "n_examples": 2, "n_repeats": 3, "n_warmup": 1} | timing
    )
    model = SimpleNamespace(ledger=ledger)
    config = SimpleNamespace(timing=of_timing)
    return SimpleNamespace(model=model, config=config, encoded=[None] * n_texts)


@pytest.mark.parametrize(("enabled", "n_texts"), [(True, 8), (True, 1), (False, 8)])
def test_what_is_left_goes_by_texts_and_timing_repeats_what_maps_took(enabled, n_texts):
    now = [100.0]
    ledger = Ledger(clock=lambda: now[0])
    left = TimeLeft(study(ledger, n_texts, enabled=enabled), [3, 1, 4], clock=lambda: now[0])
    assert left.after(0) is None
    with ledger.under(MAPS):
        now[0] += 6.0  # 2 seconds a text
    now[0] += 3.0  # and 1 for metrics
    n_passes = 3 + 1 + 1  # repeats, a warm-up, and one for the memory
    again = enabled * min(2, n_texts) * n_passes * 2.0
    assert left.after(1) == pytest.approx(5 * 3.0 + again)
    now[0] += 15.0  # the other five at 3 seconds each, of which none was of maps
    assert left.after(3) == pytest.approx(again * 6.0 / 16.0)
