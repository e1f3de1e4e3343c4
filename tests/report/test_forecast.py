"""A forecast in words."""

from rich.console import Console

from saliency_bench.cli.forecast_table import show
from saliency_bench.models.ledger import Work
from saliency_bench.studies.forecast import (
    Forecast,
    SharedPoints,
    duration,
    rounded,
    sentence,
    size,
)

FORECAST = Forecast(
    stages={
        "maps": Work(84_000.0, 2_604_000.0, 0.0, 0.0, 700.0),
        "metrics": Work(0.0, 0.0, 1000.0, 18000.0, 20.0),
    },
    shared=(SharedPoints("ig: path mask", 5, 93, 64), SharedPoints("vanilla: input", 1, 0, 0)),
    peak_bytes=1_200_000_000,
    sampled=3,
)


def printed(forecast):
    console = Console(width=160, record=True, force_terminal=False)
    with console.capture() as capture:
        show(forecast, console)
    return capture.get()


def test_the_sentence_names_time_work_and_memory():
    assert sentence(FORECAST) == (
        "About 12 minutes: 84,000 gradients of 31 tokens, 1,000 forward rows of 18 tokens, about 1.2 GB of memory."
    )


def test_what_a_study_does_not_do_and_what_is_not_known_are_not_named():
    only = Forecast({"maps": FORECAST.stages["maps"]}, (), None, 1)
    assert sentence(only) == "About 12 minutes: 84,000 gradients of 31 tokens."


def test_the_table_has_stages_shares_and_totals():
    out = printed(FORECAST)
    assert "97%" in out  # 700 of 720 seconds
    assert "2,620,000" in out  # tokens of both
    assert "union of 5 settings: 93 points per text; the largest alone: 64" in out
    assert "vanilla: input" not in out  # it shares with none
    assert "Measured on 3 of the texts" in out


def test_numbers_are_rounded_as_people_say_them():
    assert [rounded(n) for n in (0, 84_312, 2_134_567)] == ["0", "84,312", "2,130,000"]
    assert [size(n) for n in (12, 1.2e9, 3e12)] == ["12 B", "1.2 GB", "3 TB"]
    assert [duration(n) for n in (12.34, 700, 7200)] == ["12 seconds", "12 minutes", "2.0 hours"]
    assert duration(700, short=True) == "12 min"
