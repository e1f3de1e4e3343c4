"""Whatever is typed as an override: a valid study, or one sentence and exit code 2; never a traceback."""

import contextlib
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files

GROUPS = ("data", "experiment", "method", "metric", "model", "preset", "runtime")
KEYS = (
    *("name", "seed", "n_examples", "target", "output", "backend", "too_long", "out"),
    *("method.integrated_gradients.n_steps", "method.smoothgrad.noise_std", "method.vanilla"),
    *("metric.srg.grid", "evaluation.removal", "evaluation.units", "convergence.n_examples"),
    *("statistics.confidence", "timing.enabled", "runtime.dtype", "runtime.threads"),
    *("runtime.executor.workers", "model.path", "data.path", "data.split", "hydra.run.dir"),
)
VALUES = (
    *("0", "1", "-1", "1e999", "nan", "-inf", "true", "null", "''", '""', "[]", "{}", "[1,2]"),
    *("{a:1}", "${seed}", "${nothing}", "${oc.env:HOME}", "???", "_", "../..", "/", "a b", "é"),
    *("\u202e", "[[1],[2]]", "range(1,3)", "choice(1,2)", "99999999999999999999", "0x10", "1,2"),
    *("all", "probability", "mask", "[vanilla]", "{srg:{metric:srg}}", "\\", "'", '"', "{", "]"),
)
keys = st.sampled_from(KEYS) | st.sampled_from(GROUPS) | st.text("abz._/@:-~+ é", max_size=9)
values = (
    st.sampled_from(VALUES)
    | st.sampled_from([name for group in GROUPS for name in conf_files.names(group)])
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(max_size=9)
)


@st.composite
def overrides(draw):
    """One word: mostly `key=value`, added, removed or plain, sometimes neither."""
    key, value = draw(keys), draw(values)
    sign = draw(st.sampled_from(["", "", "", "+", "++", "~"]))
    shape = draw(st.sampled_from(["{s}{k}={v}"] * 6 + ["{s}{k}", "{s}{k}=", "={v}", "{k}={k}={v}"]))
    word = shape.format(s=sign, k=key, v=value).replace("\0", "")
    # Words without a sign of equality are commands, and options of Hydra are none of ours.
    return word if "=" in word and not word.startswith("-") else f"name={word}"


def refused(words, nowhere):
    """Runs a study of texts that are not there: however its other words are, it is refused."""
    err = io.StringIO()
    given = [*words, "data=file", f"data.path={nowhere}", f"out={nowhere}.run"]
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(given)
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    assert code == 2, (words, code, lines)
    assert lines and lines[-1].startswith("saliency-bench: "), (words, lines)
    assert not any("Traceback" in line or "unexpected" in line for line in lines), (words, lines)
    assert not nowhere.with_name(f"{nowhere.name}.run").exists()


def trial(n_examples):
    return settings(max_examples=n_examples, suppress_health_check=[*HealthCheck])


@trial(100)
@given(words=st.lists(overrides(), min_size=1, max_size=3))
def test_any_override_is_taken_or_refused_by_one_sentence(words, tmp_path_factory, record_property):
    refused(words, tmp_path_factory.getbasetemp() / "nowhere.csv")
    record_property("faults: any overrides", 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
@trial(5000)
@given(words=st.lists(overrides(), min_size=1, max_size=3))
def test_thousands_of_overrides_are_taken_or_refused_by_one_sentence(words, tmp_path_factory):
    refused(words, tmp_path_factory.getbasetemp() / "nowhere.csv")
