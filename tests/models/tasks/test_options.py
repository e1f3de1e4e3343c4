"""Continuations as a whole, and options: against a loop over tokens of the plain model in float64."""

import numpy as np
import pytest
import torch
from tiny_chats import ROUNDING, bpe_tokenizer, tiny_decoder
from tiny_heads import gradient_lengths, tiny_model, word_tokenizer

import saliency_bench as sb
from saliency_bench.cli import explain
from saliency_bench.core.errors import InputError
from saliency_bench.core.maps import AttributionMap
from saliency_bench.data.example import Example
from saliency_bench.models.references import embed_batch
from saliency_bench.models.tasks.encoding import collate
from saliency_bench.models.tasks.registry import questions, task_of
from saliency_bench.models.tasks.scores import clean_logits, logits_fn

PROMPT = "The capital of France is"
OPTIONS = [" Paris", " Rome, the capital of Italy", " Oslo"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return tiny_decoder(request.param, bpe_tokenizer())


def close(model, ours, slow):
    largest = np.abs(slow).max()
    tolerance = ROUNDING[model.module.config.model_type] * largest
    np.testing.assert_allclose(ours, slow, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny_model("text-generation", "gpt2", word_tokenizer(tmp_path_factory.mktemp("words")))


def ids_of(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def log_probabilities(model, ids, n, embeddings=None):
    """log p of each token from the n-th on, one forward pass for each of them, given those before it."""
    logs = []
    for end in range(n, len(ids)):
        before = torch.tensor([ids[:end]])
        table = model.module.get_input_embeddings()
        vectors = table(before).clone()
        if embeddings is not None:
            vectors[:, : embeddings.shape[1]] = embeddings
        logits = model.module(inputs_embeds=vectors).logits[0, -1]
        logs.append(logits.log_softmax(-1)[ids[end]])
    return torch.stack(logs)


def slow_score(model, prompt, continuation, how, embeddings=None):
    n, ids = len(ids_of(model, prompt)), ids_of(model, prompt + continuation)
    logs = log_probabilities(model, ids, n, embeddings)
    return logs.sum() if how == "sum" else logs.mean()


def slow_gradient(model, score):
    """The length of the gradient of a score at each token of the prompt."""
    ids = torch.tensor([ids_of(model, PROMPT)])
    embeddings = model.module.get_input_embeddings()(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(embeddings), embeddings)
    return gradient[0].norm(dim=-1).numpy()


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_a_continuation_as_a_whole_has_one_map_of_its_log_probability(model, how):
    (one,) = sb.attribute(model, PROMPT, "vanilla", continuation=OPTIONS[1], at=how)
    assert list(one.token_ids) == ids_of(model, PROMPT)
    assert one.label == "␣Rome, the capital of Italy"
    assert one.example_id == f"0@{how}"
    score = slow_score(model, PROMPT, OPTIONS[1], how)
    assert one.probability == pytest.approx(score.exp().item(), rel=1e-5)
    slow = slow_gradient(model, lambda e: slow_score(model, PROMPT, OPTIONS[1], how, e))
    close(model, one.scores, slow)


def test_a_continuation_of_several_tokens_costs_one_pass(model):
    n, whole = len(ids_of(model, PROMPT)), len(ids_of(model, PROMPT + OPTIONS[1]))
    assert whole > n + 3
    passes = []
    with model.module.register_forward_hook(lambda *_: passes.append(1)):
        # The preflight, which a hook makes run again.
        sb.attribute(model, PROMPT, "vanilla", continuation=OPTIONS[1], at="sum")
        passes.clear()
        sb.attribute(model, PROMPT, "vanilla", continuation=OPTIONS[1], at="sum")
        as_a_whole = len(passes)
        sb.attribute(model, PROMPT, "vanilla", target=5)
    assert as_a_whole == len(passes) - as_a_whole  # as one next token


@pytest.mark.parametrize("how", ["sum", "mean"])
@pytest.mark.parametrize(
    ("target", "weights"), [("predicted", None), ("gold", (0, 0, 1)), ((0, "Oslo"), (1, 0, -1))]
)
def test_options_are_classes_scored_by_their_log_probability(model, how, target, weights):
    row = {"text": PROMPT, "options": OPTIONS, "label": "Oslo"}
    (one,) = sb.attribute(model, [row], "vanilla", target=target, at=how)
    scores = torch.stack([slow_score(model, PROMPT, option, how) for option in OPTIONS])
    chosen = int(scores.argmax())
    weights = torch.eye(3)[chosen] if weights is None else torch.tensor(weights)
    assert one.target == int(weights.argmax())
    assert one.probability == pytest.approx(scores.softmax(0)[one.target].item(), rel=1e-5)
    slow = slow_gradient(
        model,
        lambda e: sum(
            w * slow_score(model, PROMPT, option, how, e)
            for w, option in zip(weights.tolist(), OPTIONS, strict=True)
        ),
    )
    close(model, one.scores, slow)


def test_options_are_scored_by_their_mean_unless_told_otherwise(model):
    default, mean = (
        sb.attribute(model, PROMPT, "vanilla", continuation=OPTIONS, **at)[0]
        for at in ({}, {"at": "mean"})
    )
    assert default.example_id == mean.example_id == "0@mean"
    assert np.array_equal(default.scores, mean.scores)


def test_curves_of_an_option_are_those_of_a_loop_over_texts(model):
    (one,) = sb.attribute(
        model, PROMPT, "leave_one_out", continuation=OPTIONS, removal="zero", target=1
    )
    ids = torch.tensor([ids_of(model, PROMPT)])
    embeddings = model.module.get_input_embeddings()(ids).detach()

    def logit(gone):
        changed = embeddings.clone()
        changed[0, gone] = 0
        return slow_score(model, PROMPT, OPTIONS[1], "mean", changed).item()

    slow = [logit([]) - logit([place]) for place in range(ids.shape[1])]
    close(model, one.scores, slow)
    table = sb.evaluate(model, [one], ["srg", "leave_one_out_tau"], removal="zero", output="logit")
    assert list(table.status) == ["ok", "ok"]
    assert table.value[1] == pytest.approx(1.0)


def test_texts_of_unequal_length_share_a_padded_pass(model):
    prompts = [PROMPT, "Rome"]
    texts = [
        task_of(model).encode(model, Example(p, p, options=tuple(OPTIONS)), "error")
        for p in prompts
    ]
    batch = collate(model, [question for _, question in questions(model, texts)])
    slow = [[slow_score(model, p, o, "mean").item() for o in OPTIONS] for p in prompts]
    close(model, clean_logits(model, batch).numpy(), np.array(slow))
    again = logits_fn(model, batch)(embed_batch(model, batch), torch.arange(2))
    close(model, again.detach().numpy(), np.array(slow))


def test_the_budget_counts_the_tokens_of_all_options(model, monkeypatch):
    tokens = []
    output = type(model).output

    def counting(self, input_ids, *rest, **options):
        tokens.append(input_ids.numel())
        return output(self, input_ids, *rest, **options)

    sb.attribute(model, PROMPT, "vanilla", continuation=OPTIONS)  # the preflight
    monkeypatch.setattr(type(model), "output", counting)
    widest = max(len(ids_of(model, PROMPT + option)) for option in OPTIONS)
    for rows in (1, 4):
        tokens.clear()
        budget = 3 * widest * rows
        sb.attribute(
            model,
            PROMPT,
            "leave_one_out",
            continuation=OPTIONS,
            removal="zero",
            token_budget=budget,
        )
        assert max(tokens) <= budget


def test_one_continuation_has_itself_and_the_rest_as_classes(model):
    (one,) = sb.attribute(
        model, PROMPT, "vanilla", continuation=" Paris", at="sum", output="log_probability"
    )
    (logit,) = sb.attribute(model, PROMPT, "vanilla", continuation=" Paris", at="sum")
    close(model, one.scores, logit.scores)
    p = slow_score(model, PROMPT, " Paris", "sum").exp().item()
    (chance,) = sb.attribute(
        model, PROMPT, "vanilla", continuation=" Paris", at="sum", output="probability"
    )
    assert chance.probability == pytest.approx(p, rel=1e-5)
    slow = slow_gradient(model, lambda e: slow_score(model, PROMPT, " Paris", "sum", e).exp())
    close(model, chance.scores, slow)


def test_a_map_of_an_option_is_the_same_after_it_was_saved(model, tmp_path):
    (one,) = sb.attribute(model, PROMPT, "vanilla", continuation=OPTIONS)
    one.save(tmp_path / "map.json")
    assert AttributionMap.load(tmp_path / "map.json").encoded == one.encoded


def test_a_tokenizer_of_words_and_gpt2_give_the_same_law(gpt2):
    """With the [CLS] that this tokenizer puts first."""
    (one,) = sb.attribute(
        gpt2, "the capital of france is", "vanilla", continuation=" paris . ?", at="sum"
    )
    n = len(one.token_ids)
    tail = gpt2.tokenizer(" paris . ?", add_special_tokens=False)["input_ids"]
    ids = [*one.token_ids, *tail]
    lengths = gradient_lengths(
        gpt2.module,
        ids,
        lambda out: sum(out.logits[0, k - 1].log_softmax(-1)[ids[k]] for k in range(n, len(ids))),
    )
    np.testing.assert_allclose(one.scores, lengths[:n], rtol=1e-9)


@pytest.mark.parametrize(
    ("item", "options", "reason"),
    [
        (PROMPT, {"at": "sum"}, "no continuation is given"),
        (PROMPT, {"continuation": ["one"]}, "at least two"),
        (PROMPT, {"continuation": [" Paris", ""]}, "option 2 of 2 is empty"),
        (PROMPT, {"continuation": [" Paris", " Paris"]}, "there twice"),
        (PROMPT + " ", {"continuation": ["Paris", "Rome"]}, "joins the end of the prompt"),
        (PROMPT, {"continuation": OPTIONS, "target": "Berlin"}, "none of the options"),
        (PROMPT, {"continuation": OPTIONS, "target": 3}, "0 ... 2"),
        ("Rome " * 200, {"continuation": OPTIONS}, "takes 256, .* shorten it$"),
        ({"text": PROMPT, "options": OPTIONS, "label": "Berlin"}, {}, "label 'Berlin' is none"),
        (
            PROMPT,
            {"continuation": OPTIONS, "method": "raw_attention"},
            "each token of the continuation",
        ),
        (
            PROMPT,
            {"continuation": OPTIONS, "backward": "attnlrp"},
            "each token of the continuation",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(model, item, options, reason):
    with pytest.raises(InputError, match=reason):
        sb.attribute(model, [item], **{"method": "vanilla"} | options)


def test_all_is_a_map_for_each_option(model):
    maps = sb.attribute(model, PROMPT, "random", continuation=OPTIONS, target="all", n_rankings=1)
    assert [one.target for one in maps] == [0, 1, 2]


def test_explain_takes_an_option_as_often_as_there_are_some():
    options = explain._options(["--option= Oslo", "--option= Rome", "--at=sum", "method=vanilla"])
    assert options.option == [" Oslo", " Rome"]
    assert options.overrides == ["method=vanilla", "~experiment"]


def test_every_method_answers_for_options(model):
    methods = ["vanilla", "smoothgrad", "integrated_gradients", "leave_one_out", "random"]
    maps = sb.attribute(model, PROMPT, methods, continuation=OPTIONS, n_steps=4, n_samples=4)
    assert {one.label for one in maps} == {maps[0].label}
    assert [one.completeness_gap is None for one in maps] == [True, True, False, True, True]


@pytest.mark.parametrize("at", ["sum", "mean"])
def test_a_model_that_reads_what_comes_later_is_refused(at):
    """Its outputs for the prompt would know the continuation: XLNet and XLM, whose heads transformers lists as causal."""
    encoder = tiny_decoder("bert", bpe_tokenizer(), is_decoder=False)
    with pytest.raises(InputError, match="reads what comes later"):
        sb.attribute(encoder, [PROMPT], "vanilla", reduction="l2", continuation=" Paris", at=at)
    decoder = tiny_decoder("bert", bpe_tokenizer(), is_decoder=True)
    assert sb.attribute(decoder, [PROMPT], "vanilla", reduction="l2", continuation=" Paris", at=at)
