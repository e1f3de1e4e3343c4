"""An estimate in words."""

import pytest
from rich.console import Console

from saliency_bench.bench.estimate import Estimate, Line, Shared, Work
from saliency_bench.models.ledger import Place
from saliency_bench.report.estimate import duration, rounded, sentence, show, unit


def line(stage, part, least, work, most):
    return Line(Place(stage, part), work, least, most)


ESTIMATE = Estimate(
    lines=(
        line("maps", "ig: path mask", *[Work(84_000.0, 2_604_000.0, 0.0, 0.0, 1.9e15, 700.0)] * 3),
        line(
            "metrics",
            "",
            Work(0.0, 0.0, 500.0, 9000.0, 1e12, 10.0),
            Work(0.0, 0.0, 1000.0, 18000.0, 2e12, 20.0),
            Work(0.0, 0.0, 4000.0, 72000.0, 8e12, 80.0),
        ),
        line("timing", "a trifle", *[Work(7.0, 70.0, 0.0, 0.0, 1e6, 0.001)] * 3),
    ),
    shared=(Shared("ig: path mask", 5, 93, 64), Shared("vanilla: input", 1, 0, 0)),
    peak_bytes=1.2e9,
    tasted=3,
)


def printed(estimate):
    console = Console(width=160, record=True, force_terminal=False)
    with console.capture() as capture:
        show(estimate, console)
    return capture.get()


def test_the_sentence_names_time_work_and_memory():
    assert sentence(ESTIMATE) == (
        "About 12 minutes: 84,000 gradients of 31 tokens, 1,000 forward rows of 18 tokens, 1.9 PFLOP, "
        "about 1.2 GB of memory."
    )


def test_what_a_study_does_not_do_is_not_named():
    (first, *_) = ESTIMATE.lines
    only = Estimate((first,), (), 1e9, 0)
    assert "forward rows" not in sentence(only)


def test_the_table_has_stages_bounds_shares_and_totals():
    out = printed(ESTIMATE)
    assert "1,000 [500, 4,000]" in out
    assert "97 %" in out  # 700 of 720 seconds
    assert "a trifle" not in out
    assert "all others" in out
    assert "union of 5 settings: 93 points per text; the largest alone: 64" in out
    assert "vanilla: input" not in out  # it shares with none
    assert "3 of the texts on the model itself" in out


def test_an_estimate_of_nothing_can_be_shown():
    assert "About 0 seconds" in printed(Estimate((), (), 0.0, 0))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.26, "4.3 seconds"), (89.0, "89 seconds"), (90.0, "2 minutes"), (720.0, "12 minutes"), (9000.0, "2.5 hours")],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_numbers_are_rounded():
    assert rounded(84_321.0) == "84,300"
    assert rounded(7.0) == "7"
    assert unit(1.94e15, "FLOP") == "1.9 PFLOP"
    assert unit(999.6, "B") == "1 kB"
    assert unit(2.5e21, "FLOP") == "2500 EFLOP"
    assert unit(0.0, "B") == "0 B"
