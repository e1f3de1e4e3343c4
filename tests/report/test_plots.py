"""Figures: what they show, when they are drawn, and that the same numbers are the same bytes."""

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib import colors, pyplot
from matplotlib.figure import Figure

from saliency_bench.attribution.describe import described
from saliency_bench.attribution.methods import ABOUT
from saliency_bench.core.rows import Setting
from saliency_bench.report import charts, plots, removal_plots, style, sweep_plots
from saliency_bench.report.analysis import analyse

FIGURES = [plots.curves, plots.metric_bars, plots.agreement, plots.cost]
SWEEPS = [sweep_plots.convergence, sweep_plots.noise_map]


def settings(method, backend="native", **axes):
    names, values = list(axes), list(axes.values())
    combinations = np.array(np.meshgrid(*values, indexing="ij"), dtype=object).reshape(
        len(names), -1
    )
    return [
        Setting(
            method,
            method,
            backend,
            "sum",
            "predicted",
            "logit",
            0,
            dict(zip(names, one, strict=True)),
        )
        for one in combinations.T.tolist()
    ]


def steps(**axes):
    return settings(
        "integrated_gradients",
        **{"baseline": ["mask", "zero"], "n_steps": [4, 8, 16], "quadrature": ["left", "midpoint"]}
        | axes,
    )


def noises():
    return settings("smoothgrad", n_samples=[4, 16], noise_std=[0.1, 0.5])


def drawn(plot, run):
    with style.styled():
        return plot(analyse(run))


@pytest.mark.parametrize("plot", FIGURES, ids=lambda plot: plot.__name__)
def test_the_same_numbers_are_the_same_bytes(plot, run):
    analysis = analyse(run)
    with style.styled():
        first, second = (plot(analysis) for _ in range(2))
        assert style.png(first) == style.png(second)
        page = style.pdf(first)
        assert page == style.pdf(second)
    assert b"CreationDate" not in page and b"Producer" not in page


@pytest.mark.parametrize("plot", SWEEPS, ids=lambda plot: plot.__name__)
def test_the_same_sweep_is_the_same_bytes(plot, make_run):
    analysis = analyse(make_run([*noises(), *steps()], n_examples=4))
    with style.styled():
        assert style.png(plot(analysis)) == style.png(plot(analysis))


def test_a_chart_shows_the_interval_that_it_is_given():
    """Far from any that seaborn would compute."""
    mean, low, high = 0.2, 0.1, 0.7
    table = pd.DataFrame({"at": [1], "name": ["one"], "mean": mean, "low": low, "high": high})
    with style.styled():
        line, point, bar = Figure().subplots(3)
        long, looks = charts.ends(table, ["at", "name"]), {"one": ("#0072B2", "o")}
        charts.lines(line, long, looks, x="at", by="name")
        own = table.drop(columns="at").assign(row="a")
        charts.points(point, own, looks, y="row", order=["a"], spread=0.5)
        charts.bars(bar, own.drop(columns="name"), {"a": "#0072B2"}, y="row")
    (whiskers,) = line.collections
    assert whiskers.get_segments()[0][:, 1].tolist() == pytest.approx([low, high])
    assert line.get_lines()[0].get_ydata().tolist() == [mean]
    dot, whisker = point.get_lines()[:2]
    assert dot.get_xdata().tolist() == [mean]
    assert whisker.get_xdata().tolist() == [low, high]
    assert bar.patches[0].get_width() == mean
    assert bar.get_lines()[0].get_xdata().tolist() == [low, high]


@pytest.mark.parametrize("plot", FIGURES, ids=lambda plot: plot.__name__)
def test_a_figure_without_data_is_not_drawn(plot, make_run):
    run = make_run(noises()[:1], n_examples=3, metrics=())
    run.tables["curves"] = run.tables["curves"].iloc[:0]
    assert drawn(plot, run) is None


@pytest.mark.parametrize("plot", SWEEPS, ids=lambda plot: plot.__name__)
def test_a_study_without_a_sweep_has_no_figure_of_one(plot, run):
    assert drawn(plot, run) is None


def test_a_users_matplotlib_settings_change_nothing_and_are_kept(run):
    expected = style_of_curves(run)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9}):
        assert style_of_curves(run) == expected
        assert matplotlib.rcParams["font.size"] == 20


def test_figures_leave_pyplot_and_the_settings_of_matplotlib_as_they_were(run):
    before = dict(matplotlib.rcParams), colors.to_rgba("b"), pyplot.get_fignums()
    for plot in FIGURES:
        drawn(plot, run)
    assert before == (dict(matplotlib.rcParams), colors.to_rgba("b"), pyplot.get_fignums())


def style_of_curves(run):
    analysis = analyse(run)
    with style.styled():
        return style.png(plots.curves(analysis))


def test_a_curve_is_the_mean_of_the_examples_at_common_fractions(run):
    figure = drawn(plots.curves, run)
    left = figure.axes[0]
    lines = {line.get_label(): line for line in left.get_lines()}
    assert len(lines) == 6
    table = run.tables["curves"]
    own = table[table["setting_id"] == run.settings[-1]["setting_id"]]
    half = [
        np.interp(0.5, one["k"] / one["n_units"], one["deletion"])
        for _, one in own.groupby("example_id")
    ]
    x, y = lines["Leave-one-out"].get_data()
    assert y[list(x).index(0.5)] == pytest.approx(np.mean(half), rel=1e-12)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({}, "Mean over 20 examples;"),
        ({"srg": 8, "sufficiency": 8}, "Mean over the 12 of 20 examples that have a value;"),
        ({"srg": 8}, "Mean over the 12 to 20 of 20 examples that have a value, by metric;"),
    ],
)
def test_bars_say_how_many_examples_have_a_value(make_run, missing, said):
    run = make_run([*noises(), *steps()], metrics=("srg", "sufficiency"))
    rows, ids = run.tables["rows"], sorted(run.tables["examples"]["example_id"])
    for metric, n in missing.items():
        gone = (rows["metric"] == metric) & rows["example_id"].isin(ids[:n])
        rows.loc[gone, ["status", "value"]] = ["not_applicable", np.nan]
    figure = drawn(plots.metric_bars, run)
    texts = [one.get_text() for one in figure.findobj(matplotlib.text.Text)]
    assert any(said in one.replace("\n", " ") for one in texts), texts


def test_bars_and_whiskers_are_the_means_and_intervals_of_the_table(run):
    analysis = analyse(run)
    axes = drawn(plots.metric_bars, run).axes[0]
    assert axes.get_title(loc="left") == "SRG ↑"
    for bar, line, key in zip(axes.patches, axes.get_lines(), analysis.drawn, strict=False):
        one = analysis.estimate(key, "srg")
        assert bar.get_width() == pytest.approx(one.mean)
        assert line.get_xdata() == pytest.approx([one.low, one.high])


def test_a_method_has_one_colour_whatever_else_is_drawn(make_run):
    colours = set()
    for names in (["vanilla", "random"], ["smoothgrad", "vanilla"]):
        run = make_run([s for name in names for s in settings(name, n=[1])], n_examples=3)
        figure = drawn(plots.curves, run)
        lines = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines()}
        colours.add(lines["Vanilla gradient"])
    assert len(colours) == 1


def test_an_unknown_method_has_a_colour_that_its_name_decides():
    one, other = ({"method": "my_method", "n": n} for n in (1, 2))
    assert style.color(one) == style.color(other) in style._OTHERS
    assert not {*style._OTHERS} & {of.color for of in ABOUT.values()}


def test_captum_is_dashed_and_our_code_is_not():
    (ours,), (theirs,) = settings("vanilla", n=[1]), settings("vanilla", "captum", n=[1])
    assert style.stroke(described(ours))["linestyle"] == "-"
    assert style.stroke(described(theirs))["linestyle"] == "--"


def test_agreement_is_the_mean_of_the_pair_and_one_with_itself(run):
    analysis = analyse(run)
    values = drawn(plots.agreement, run).axes[0].collections[0].get_array()
    assert np.diag(values).tolist() == [1.0] * 6
    assert np.array_equal(values, values.T)
    a, b = analysis.drawn[:2]
    table = run.tables["agreement"]
    pair = table[table["setting_a"].isin([a, b]) & table["setting_b"].isin([a, b])]
    assert values[0, 1] == pytest.approx(pair["value"].mean(), rel=1e-12)


@pytest.mark.parametrize("plot", FIGURES, ids=lambda plot: plot.__name__)
@pytest.mark.parametrize("n_steps", [[4, 8], [2, 4, 8]])
def test_a_figure_says_how_many_of_the_settings_it_shows(plot, n_steps, make_run):
    many = [*settings("smoothgrad", n_samples=[4]), *steps(n_steps=n_steps)]
    figure = drawn(plot, make_run(many, n_examples=4))
    words = " ".join(
        " ".join(one.get_text() for one in figure.findobj(matplotlib.text.Text)).split()
    )
    assert ("10 of 13 settings" in words) == (len(many) == 13)
    assert ("of 9 settings" in words) is False


@pytest.mark.parametrize("backend", ["captum", "captum_layer"])
def test_every_backend_of_captums_is_drawn_as_captums(backend):
    ours, theirs = (settings("smoothgrad", one, n_samples=[4])[0] for one in ("native", backend))
    assert style.stroke(described(ours))["linestyle"] == "-"
    assert style.stroke(described(theirs))["linestyle"] == "--"


def test_convergence_has_a_panel_per_baseline_and_a_line_per_rule(make_run):
    figure = drawn(sweep_plots.convergence, make_run(steps(), n_examples=4))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Baseline: mask",
        "Baseline: zero",
    ]
    for axes in figure.axes:
        lines = [one for one in axes.get_lines() if one.get_linestyle() == "-"]
        named = {one.get_label(): one.get_color() for one in lines if not len(one.get_xdata())}
        assert list(named) == ["left", "midpoint"]
        left, midpoint = (one for one in lines if len(one.get_xdata()))
        assert [left.get_color(), midpoint.get_color()] == list(named.values())
        assert axes.get_yscale() == axes.get_xscale() == "log"
        steps_of_left, gaps = left.get_data()
        assert list(steps_of_left) == [4, 8, 16]
        # The fixture's gap is proportional to 1/n for the left rule.
        assert gaps[0] / gaps[1] == pytest.approx(2.0) and gaps[1] / gaps[2] == pytest.approx(2.0)


def test_the_noise_map_has_samples_up_and_noise_across(make_run):
    run = make_run(noises(), n_examples=4)
    analysis = analyse(run)
    axes = drawn(sweep_plots.noise_map, run).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.5"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["4", "16"]
    values = axes.collections[0].get_array()
    for setting in noises():
        row, column = (
            [4, 16].index(setting.hyper["n_samples"]),
            [0.1, 0.5].index(setting.hyper["noise_std"]),
        )
        assert values[row, column] == analysis.estimate(setting.id, "srg").mean


def test_figures_of_methods_show_at_most_as_many_as_can_be_told_apart(make_run):
    run = make_run(steps(), n_examples=3)
    assert len(analyse(run).shown) == 12
    assert len(drawn(plots.curves, run).axes[0].get_lines()) == 10


def test_long_names_leave_room_for_the_data(make_run):
    long = Setting("a_name_" * 12, "vanilla", "native", "l2", "predicted", "logit", 0, {})
    run = make_run([long, *settings("smoothgrad", n=[1]), *settings("random", n=[1])], n_examples=3)
    # A layout without room for the axes is a warning, which is an error here.
    for plot in FIGURES:
        with style.styled():
            figure = plot(analyse(run))
            assert figure is None or style.png(figure)


def test_the_removal_grid_has_a_column_for_each_way_and_frames_what_is_circular(
    make_run, make_settings
):
    made = make_settings("vanilla", "integrated_gradients", "random", backends=("native",))
    run = make_run(made, n_examples=6, metrics=("srg",))
    assert drawn(removal_plots.removal_grid, run) is None
    other = run.tables["rows"].assign(removal="zero")
    other["value"] += 1
    run.tables["rows"] = pd.concat([run.tables["rows"], other])
    run.manifest["config"]["evaluation"]["removal"] = ["mask", "zero"]
    figure = drawn(removal_plots.removal_grid, run)
    axes = figure.axes[0]
    (mesh,) = axes.collections
    values = mesh.get_array()
    assert values.shape == (3, 2)
    np.testing.assert_allclose(values[:, 1] - values[:, 0], 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["mask", "zero"]
    assert len(axes.patches) == 1  # Integrated Gradients from the mask, judged by the mask
    assert figure.axes[1].get_ylabel() == "SRG ↑"


def test_a_method_judged_by_its_own_baseline_is_framed_and_one_that_has_none_is_a_black_dash(
    make_run, make_settings
):
    made = make_settings("vanilla", "integrated_gradients", backends=("native",))
    run = make_run(made, n_examples=6, metrics=("srg",))
    rows = run.tables["rows"].assign(removal="zero")
    own = rows[rows["setting_id"] == made[1].id].assign(removal="baseline")
    run.tables["rows"] = pd.concat([rows, own])
    run.manifest["config"]["evaluation"]["removal"] = ["zero", "baseline"]
    axes = drawn(removal_plots.removal_grid, run).axes[0]
    (frame,) = axes.patches
    assert 1 < frame.get_x() < 2  # in the second column
    (dash,) = [text for text in axes.texts if text.get_text() == "–"]
    assert dash.get_color() == "black"


def test_numbers_of_one_sign_use_the_whole_of_a_sequential_scale_and_others_lie_around_zero():
    one = style.shades(np.array([[0.2, 0.6], [np.nan, -0.01]]))
    assert one == {"cmap": "cividis", "vmin": -0.01, "vmax": 0.6}
    assert style.shades(-np.array([0.2, 0.6]))["cmap"] == "cividis"
    assert style.shades(np.array([-0.2, 0.6])) == {"cmap": "RdBu_r", "vmin": -0.6, "vmax": 0.6}


def test_settings_of_one_colour_have_a_marker_each_and_twins_share_theirs(make_run):
    (random,) = settings("random", n=[1])
    paths = steps(baseline=["mask", "zero"], n_steps=[8], quadrature=["left"])
    captum = [one.twin("captum") for one in paths]
    found = style.signs([described(one) for one in (*paths, *captum, random)])
    assert [found[one.id] for one in paths] == [found[one.id] for one in captum] == ["o", "^"]
    assert found[random.id] == ""
    run = make_run([*paths, *captum, random], n_examples=4)
    lines = drawn(plots.curves, run).axes[0].get_lines()
    own = {line.get_label(): line.get_marker() for line in lines}
    assert own["Random"] == "None"
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 5
    # Bands of one line of each colour: more would lie on each other.
    assert len(drawn(plots.curves, run).axes[0].collections) == 2
    points = [
        line
        for line in drawn(plots.cost, run).axes[0].get_lines()
        if len(line.get_xdata()) == 1 and line.get_marker() != "None"  # else a whisker
    ]
    looks = {(p.get_color(), p.get_marker(), p.get_markerfacecolor()) for p in points}
    assert len(looks) == len(points) == 5


def test_curves_of_texts_are_read_as_numpy_reads_each_alone():
    """Of any lengths, with grids that leave points out, and texts in any order."""
    stream, lines, expected = np.random.default_rng(0), [], []
    for text in range(60):
        n = int(stream.integers(1, 30))
        inner = [k for k in range(1, n) if stream.random() < 0.7]
        ks = ([] if text % 7 == 0 else [0]) + inner + [n]
        values = stream.random(len(ks))
        key = {"cell_id": "c", "example_id": f"e{text:02d}", "n_units": n}
        lines += [key | {"k": k, "deletion": v} for k, v in zip(ks, values, strict=True)]
        expected.append(np.interp(np.linspace(0, 1, 21), np.array(ks) / n, values))
    own = pd.DataFrame(lines).sample(frac=1, random_state=0)
    # The same formula as numpy's but for the last step of a sum.
    np.testing.assert_allclose(plots._on_grid(own, "deletion"), np.stack(expected), rtol=1e-12)
