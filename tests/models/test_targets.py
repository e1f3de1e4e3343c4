"""Whose score is explained: every kind of target against the plain model's own gradient."""

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer, framed, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.cli import config
from saliency_bench.cli import main as cli
from saliency_bench.core.errors import InputError
from saliency_bench.models.loading import load_model, wrap_model

INPUTS = framed(*token_inputs(5, 7, 5, 3))
LABELS = ("no", "perhaps", "yes")


@pytest.fixture(scope="module")
def model():
    return wrap_model(tiny_bert(), tokenizer=FrameTokenizer(), labels=LABELS)


def logits_and_gradient(model, ids, score):
    """The plain model's logits, and the length of each token's gradient of `score(logits)`."""
    ids = torch.tensor([ids["input_ids"]])
    start = model.module.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model.module.eval()(inputs_embeds=start).logits[0]
    (gradient,) = torch.autograd.grad(score(logits), start)
    return logits.detach(), gradient[0].norm(dim=-1).numpy()


def second(logits):
    return sorted(range(len(logits)), key=lambda c: -logits[c])[1]


@pytest.mark.parametrize(
    ("target", "of"),
    [
        ("predicted", lambda z: z.max()),
        ("runner_up", lambda z: z[second(z.tolist())]),
        (1, lambda z: z[1]),
        ("perhaps", lambda z: z[1]),
        (("yes", "no"), lambda z: z[2] - z[0]),
        ("contrast:2|perhaps", lambda z: z[2] - z[1]),
        ("contrast:predicted|runner_up", lambda z: z.max() - z[second(z.tolist())]),
    ],
)
def test_a_target_is_the_gradient_of_that_score(model, target, of):
    maps = sb.attribute(model, INPUTS, "vanilla", target=target)
    for one, ids in zip(maps, INPUTS, strict=True):
        _, expected = logits_and_gradient(model, ids, of)
        np.testing.assert_allclose(one.scores, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("output", "of"),
    [
        ("logit", lambda z, c: z[c]),
        ("probability", lambda z, c: z.softmax(-1)[c]),
        ("log_probability", lambda z, c: z.log_softmax(-1)[c]),
        ("cross_entropy", lambda z, c: -z.log_softmax(-1)[c]),
    ],
)
def test_an_output_is_what_its_name_says_of_a_class_and_of_a_contrast(model, output, of):
    (plain,) = sb.attribute(model, INPUTS[:1], "vanilla", target=1, output=output)
    _, expected = logits_and_gradient(model, INPUTS[0], lambda z: of(z, 1))
    np.testing.assert_allclose(plain.scores, expected, rtol=1e-9)
    (against,) = sb.attribute(model, INPUTS[:1], "vanilla", target=(1, 0), output=output)
    _, expected = logits_and_gradient(model, INPUTS[0], lambda z: of(z, 1) - of(z, 0))
    np.testing.assert_allclose(against.scores, expected, rtol=1e-9)


def test_all_classes_are_a_map_each_in_their_order(model):
    maps = sb.attribute(model, INPUTS, "vanilla", target="all")
    assert [(one.input_index, one.label) for one in maps] == [
        (index, label) for index in range(4) for label in LABELS
    ]
    for one in maps[:3]:
        _, expected = logits_and_gradient(model, INPUTS[0], lambda z, c=one.target: z[c])
        np.testing.assert_allclose(one.scores, expected, rtol=1e-9)
    assert sum(one.probability for one in maps[:3]) == pytest.approx(1, abs=1e-12)


def test_a_contrast_is_the_difference_of_its_classes_and_complete(model):
    options = {"baseline": "zero", "n_steps": 64, "quadrature": "gauss_legendre"}
    maps = sb.attribute(
        model, INPUTS, "integrated_gradients", target=["yes", "no", ("yes", "no")], **options
    )
    for yes, no, both in zip(maps[::3], maps[1::3], maps[2::3], strict=True):
        np.testing.assert_allclose(both.scores, yes.scores - no.scores, atol=1e-10)
        assert both.label == "yes - no"
        assert (both.target, both.probability) == (yes.target, yes.probability)
        assert abs(both.completeness_gap) < 1e-6


def test_a_contrast_is_the_same_through_captum_and_for_leave_one_out(model):
    options = {"target": ("yes", "no"), "baseline": "zero", "n_steps": 8}
    ours, theirs = (
        sb.attribute(model, INPUTS, "integrated_gradients", backend=backend, **options)
        for backend in ("native", "captum")
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6, atol=1e-9)
    maps = sb.attribute(
        model, INPUTS, "leave_one_out", target=["yes", "no", ("yes", "no")], removal="zero"
    )
    for yes, no, both in zip(maps[::3], maps[1::3], maps[2::3], strict=True):
        np.testing.assert_allclose(both.scores, yes.scores - no.scores, atol=1e-12)


def multi_label():
    module = tiny_bert()
    module.config.problem_type = "multi_label_classification"
    return wrap_model(module, tokenizer=FrameTokenizer(), labels=LABELS)


def test_classes_that_do_not_exclude_each_other_have_probabilities_of_their_own():
    model = multi_label()
    maps = sb.attribute(model, INPUTS[:1], "vanilla", target="all", output="probability")
    for c, one in enumerate(maps):
        logits, expected = logits_and_gradient(model, INPUTS[0], lambda z, c=c: z.sigmoid()[c])
        np.testing.assert_allclose(one.scores, expected, rtol=1e-9)
        assert one.probability == pytest.approx(float(logits.sigmoid()[c]), abs=1e-12)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("maybe", "maybe"),
        (7, "7"),
        (("yes", "yes"), "same class"),
        ("contrast:yes", "contrast:A|B"),
        ("contrast:yes|no|perhaps", "contrast:A|B"),
        ("contrast:predicted|predicted", "same class"),
        (("yes",), "two classes"),
        ("gold", "label"),
        ("contrast:all|yes", "several maps"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(model, target, said):
    with pytest.raises(InputError) as error:
        sb.attribute(model, INPUTS, "vanilla", target=target)
    assert said in str(error.value)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("target", ["runner_up", "contrast:predicted|runner_up", "1", "LABEL_2"])
def test_a_study_takes_targets_too(folder, tmp_path, monkeypatch, target, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").write_text("text\nthe film w1\na w2 w3 and\n", "utf-8")
    words = ["~experiment", "model=hub", f"model.path={folder}", "data=file", "data.path=texts.csv"]
    words += ["data.text=text", "method=[vanilla,random]", "metric=[srg]", f"target='{target}'"]
    words += ["name=t", "out=run", "runtime.device=cpu", "convergence.n_examples=0"]
    words += ["statistics.n_resamples=100"]
    assert cli.main(words) == 0, capsys.readouterr().err
    from saliency_bench.store.run import read_run

    maps = read_run(tmp_path / "run").tables["maps"]
    model = load_model(str(folder), device="cpu")
    (expected, *_) = sb.attribute(model, "the film w1", "vanilla", target=target)
    assert expected.label in set(maps["label"])


@pytest.mark.parametrize("target", ["neither", "all", "contrast:neither|LABEL_0"])
def test_a_study_refuses_a_target_before_anything_is_written(
    folder, tmp_path, monkeypatch, target, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").write_text("text\nthe film w1\n", "utf-8")
    words = ["~experiment", "model=hub", f"model.path={folder}", "data=file", "data.path=texts.csv"]
    words += ["data.text=text", "method=[vanilla]", "metric=[srg]", f"target='{target}'"]
    assert cli.main([*words, "name=t", "out=run", "runtime.device=cpu"]) == 2
    assert "target" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_configuration_knows_how_a_contrast_is_written():
    with pytest.raises(InputError, match=r"contrast:A\|B"):
        config.validate(config.load(["target='contrast:yes'"]))
