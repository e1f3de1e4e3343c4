"""What every figure of methods must be to be read: nothing is cut off, nothing lies on its neighbour, a page holds it."""

import io
from itertools import combinations, pairwise

import pytest
from matplotlib.figure import Figure

from saliency_bench.core.rows import Setting
from saliency_bench.report import plots, style
from saliency_bench.report.analysis import analyse
from saliency_bench.report.build import FIGURES

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


LAID_OUT = {}  # the figures of a run, which take seconds, for all laws


@pytest.fixture(params=["few", "many", "long", "untimed"])
def pictures(request, make_run, make_settings):
    """Figures as they are saved, of few bars, as many as can be, names without end, and one panel of costs."""
    few = make_settings("smoothgrad", "vanilla", "random", backends=["native"])
    long = Setting("a_name_" * 12, "vanilla", "native", "l2", "predicted", "logit", 0, {"n": 1})
    made = {"few": few[:1] + few[2:], "many": many(make_settings), "long": [long, *few]}
    if (name := request.param) not in LAID_OUT:
        LAID_OUT[name] = drawn(make_run(made.get(name, few), n_examples=4, timed=name != "untimed"))
    return LAID_OUT[name]


def drawn(run):
    analysis, found = analyse(run), {}
    for name, plot in FIGURES.items():
        with style.styled():
            if (figure := plot(analysis)) is not None:
                figure.savefig(io.BytesIO(), format="png", dpi=100)
                found[name] = figure
    return found


def inside(box, figure):
    frame = figure.bbox
    ends = [box.x0 - frame.x0, box.y0 - frame.y0, frame.x1 - box.x1, frame.y1 - box.y1]
    return min(ends) >= -PIXEL


def test_nothing_is_cut_off_and_every_legend_lies_inside(pictures):
    for name, figure in pictures.items():
        for legend in figure.legends:
            assert inside(legend.get_window_extent(), figure), name
        whole = figure.get_tightbbox()
        assert inside(whole.transformed(figure.dpi_scale_trans), figure), name


def test_a_page_holds_every_figure(pictures):
    for name, figure in pictures.items():
        assert figure.get_figheight() <= style.HEIGHT, name


def test_titles_of_panels_and_names_of_rows_do_not_lie_on_their_neighbours(pictures):
    for name, figure in pictures.items():
        titles = [axes.title if axes.get_title() else axes._left_title for axes in figure.axes]
        boxes = [one.get_window_extent() for one in titles if one.get_text()]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2)), name
        for axes in figure.axes:
            rows = [one for one in axes.get_yticklabels() if one.get_text() and one.get_visible()]
            boxes = sorted((one.get_window_extent() for one in rows), key=lambda box: box.y0)
            assert all(low.y1 <= high.y0 + PIXEL for low, high in pairwise(boxes)), name


def test_two_bars_have_fewer_panels_than_many_and_an_arrow_stands_behind_a_word(
    make_run, make_settings
):
    for n, panels in ((2, 6), (4, 9)):
        methods = ("vanilla", "random", "leave_one_out", "integrated_gradients")[:n]
        run = make_run(make_settings(*methods, backends=["native"]), n_examples=4)
        with style.styled():
            figure = plots.metric_bars(analyse(run))
        assert len(figure.axes) == panels
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "Comprehensiveness\n(full) ↑" in titles and "Sufficiency ↓" in titles
    said = " ".join(figure.get_supxlabel().split())
    assert "evidence in other units: Comprehensiveness (full) and Deletion AUC;" in said


def test_the_matrix_of_agreement_fills_its_figure(pictures):
    figure = pictures.get("agreement")
    if figure is not None:
        # What is left is for the numbers of columns and the caption, an inch at most.
        high = figure.axes[0].get_window_extent().height / figure.dpi
        assert figure.get_figheight() - high < 1.0


def test_a_legend_cuts_no_word_that_fits_and_takes_no_more_columns_than_do():
    figure = style.Figure(figsize=(style.WIDTH, 1))
    short = ["mask", "pad", "unk", "zero", "mean", "attention", "delete"]
    handles = [figure.subplots().plot([0], [0])[0]] * 20
    shown = [text.get_text() for text in style.legend(figure, handles[:7], short).get_texts()]
    assert shown == short
    long = ["Integrated Gradients (reduction=sum, baseline=max_entropy, n_steps=32)"] * 20
    figure.set_figheight(1)
    legend = style.legend(figure, handles, long)
    assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == long
    # Ten rows of two lines beside each other.
    assert 10 * 20 / 72 < figure.get_figheight() - 1 < 10 * 30 / 72


def test_costs_that_do_not_vary_are_no_figure(make_run, make_settings):
    settings = make_settings("vanilla", "input_x_gradient", "random", backends=["native"])
    run = make_run(settings, n_examples=4, timed=False)
    assert plots.cost(analyse(run)) is None
    timed = make_run(settings, n_examples=4)
    # A gradient each; but seconds differ from the ranking's, which takes none.
    assert plots.cost(analyse(timed)).axes[0].get_xlabel() == "Time per example (s)"
    assert len(plots.cost(analyse(timed)).axes) == 1


@pytest.mark.parametrize("ends", [(0.015, 0.33), (0.04, 0.3), (0.001, 20), (1e-4, 1e3)])
def test_the_numbers_of_an_axis_of_costs_stand_apart_whatever_it_spans(ends):
    with style.styled():
        figure = Figure(figsize=(style.WIDTH, 3.0), layout="constrained")
        axes, _ = figure.subplots(1, 2)
        axes.set_xscale("log")
        axes.set_xlim(ends)
        plots._plain_ticks(axes, 10)
        figure.savefig(io.BytesIO(), format="png", dpi=100)
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    boxes = [label.get_window_extent() for place, label in ticks if low <= place <= high]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
