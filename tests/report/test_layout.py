"""What every figure of methods must be to be read: nothing is cut off, nothing lies on its neighbour, a page holds it."""

import io

import pytest

from saliency_bench.report import plots, style
from saliency_bench.report.analysis import analyse
from saliency_bench.report.build import FIGURES
from saliency_bench.rows import Setting

PIXEL = 1.0  # what rounding to whole dots may put outside


def many(make_settings):
    """Ten settings with the longest names there are: reductions, baselines and steps differ, and so do backends."""
    paths = [
        Setting(
            "integrated_gradients",
            "integrated_gradients",
            backend,
            reduction,
            "predicted",
            "logit",
            0,
            {"baseline": baseline, "n_steps": 32, "quadrature": "gauss_legendre"},
        )
        for backend in ("native", "captum")
        for reduction in ("sum", "l2")
        for baseline in ("mask", "max_entropy")
    ]
    return [*paths[:7], *make_settings("vanilla", "random", "leave_one_out", backends=["native"])]


@pytest.fixture(params=["few", "many", "long", "untimed"])
def a_run(request, make_run, make_settings):
    """Runs whose figures have few bars, as many as can be, names without end, and one panel of costs."""
    few = make_settings("smoothgrad", "vanilla", "random", backends=["native"])
    long = Setting("a_name_" * 12, "vanilla", "native", "l2", "predicted", "logit", 0, {"n": 1})
    made = {"few": few[:1] + few[2:], "many": many(make_settings), "long": [long, *few]}
    return make_run(made.get(request.param, few), n_examples=4, timed=request.param != "untimed")


def pictures(run):
    """Every figure of a run, laid out as it is saved."""
    analysis = analyse(run)
    for name, plot in FIGURES.items():
        with style.styled():
            if (figure := plot(analysis)) is not None:
                figure.savefig(io.BytesIO(), format="png", dpi=100)
                yield name, figure


def inside(box, figure):
    frame = figure.bbox
    ends = [box.x0 - frame.x0, box.y0 - frame.y0, frame.x1 - box.x1, frame.y1 - box.y1]
    return min(ends) >= -PIXEL


def test_nothing_is_cut_off_and_every_legend_lies_inside(a_run):
    for name, figure in pictures(a_run):
        for legend in figure.legends:
            assert inside(legend.get_window_extent(), figure), name
        whole = figure.get_tightbbox()
        assert inside(whole.transformed(figure.dpi_scale_trans), figure), name


def test_costs_that_do_not_vary_are_no_figure(make_run, make_settings):
    settings = make_settings("vanilla", "input_x_gradient", "random", backends=["native"])
    run = make_run(settings, n_examples=4, timed=False)
    assert plots.cost(analyse(run)) is None
    timed = make_run(settings, n_examples=4)
    # A gradient each; but seconds differ from the ranking's, which takes none.
    assert plots.cost(analyse(timed)).axes[0].get_xlabel() == "Time per example (s)"
    assert len(plots.cost(analyse(timed)).axes) == 1
