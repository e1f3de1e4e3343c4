"""Baselines and random references: where they are, what they depend on, and what sums they promise.

In float64. Random ones are held to their expectation by five of its standard errors (2 in 3.5 million by chance).
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from tiny import DIMENSIONS, VOCABULARY, FrameTokenizer, framed, scored_by, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.attribution import baselines
from saliency_bench.core.errors import InputError
from saliency_bench.core.registry import BASELINES
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

WEIGHTS = torch.linspace(-1, 1, DIMENSIONS, dtype=torch.float64)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "##s", "."]


def linear(embeddings):
    return (embeddings @ WEIGHTS).sum(1)


def opened(model, inputs, seed=0, refs=None):
    """The context of these inputs as one batch, padded."""
    encoded = [
        encoded_ids(model, one, str(i), None, f"inputs[{i}]") for i, one in enumerate(inputs)
    ]
    return open_block(refs or References(model), encoded, 0, 10**6).context("logit", seed)


def starts(model, inputs, baseline, seed=0, special_tokens="keep"):
    """Of each input alone, where its path starts."""
    found = opened(model, inputs, seed).path(baseline, special_tokens).reference
    return [row[: len(one["input_ids"])] for row, one in zip(found, inputs, strict=True)]


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """A tiny BERT in float64 that knows a few words."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("words")
    vocabulary = WORDS + [f"w{index}" for index in range(VOCABULARY - len(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return sb.wrap_model(tiny_bert(), BertTokenizer.from_pretrained(folder))


# --- uniform -------------------------------------------------------------------------------------------------------


def test_uniform_has_the_mean_and_std_of_each_dimension_and_ends_at_root_three_of_it():
    model = scored_by(linear)
    matrix = model.embedding.weight.detach()
    mean, std = matrix.mean(0), matrix.std(0, correction=0)
    drawn = torch.cat(starts(model, token_inputs(*[20] * 500), "uniform"))
    n = len(drawn)
    assert ((drawn.mean(0) - mean).abs() < 5 * std / n**0.5).all()
    # A uniform number has kurtosis 9/5, so its sample variance the relative error sqrt(0.8/n), the std half of that.
    assert ((drawn.std(0) / std - 1).abs() < 5 * 0.5 * (0.8 / n) ** 0.5).all()
    assert ((drawn - mean).abs() <= 3**0.5 * std * (1 + 1e-12)).all()
    assert ((drawn - mean).abs().amax(0) > 0.999 * 3**0.5 * std).all()


def test_uniform_belongs_to_the_text_and_the_seed_and_to_nothing_else():
    model, inputs = scored_by(linear), token_inputs(5, 9, 5, 7)
    together = starts(model, inputs, "uniform")
    turned = starts(model, inputs[::-1], "uniform")[::-1]
    for index, one in enumerate(inputs):
        (alone,) = starts(model, [one], "uniform")
        assert torch.equal(alone, together[index])
        assert torch.equal(alone, turned[index])
        (other,) = starts(model, [one], "uniform", seed=1)
        assert (alone != other).all()
    assert len(torch.unique(torch.cat(together), dim=0)) == 5 + 9 + 5 + 7


def test_uniform_leaves_special_tokens_unless_they_are_to_be_replaced():
    model = scored_by(linear, tokenizer=FrameTokenizer())
    (item,) = framed(*token_inputs(4))
    x = model.embed(torch.tensor([item["input_ids"]]))[0]
    (kept,) = starts(model, [item], "uniform")
    (replaced,) = starts(model, [item], "uniform", special_tokens="replace")
    assert torch.equal(kept[[0, -1]], x[[0, -1]])
    assert (replaced != x).all()
    assert torch.equal(kept[1:-1], replaced[1:-1])


# --- what every baseline promises ----------------------------------------------------------------------------------


def logit(model, ids, embeddings, target):
    return model.output(torch.tensor([ids]), embeddings=embeddings[None])[0, target].item()


@pytest.mark.filterwarnings(
    "ignore:baseline=max_entropy"
)  # a random model may know something everywhere
@pytest.mark.parametrize("baseline", [*BASELINES.names(), "text:w8 w9", "vector:FILE"])
@pytest.mark.parametrize("special_tokens", ["keep", "replace"])
def test_integrated_gradients_are_complete_from_every_baseline(
    worded, tmp_path, baseline, special_tokens
):
    if baseline == "vector:FILE":
        np.save(tmp_path / "own.npy", np.linspace(-1, 1, 16))
        baseline = f"vector:{tmp_path / 'own.npy'}"
    options = {"baseline": baseline, "baseline_special_tokens": special_tokens, "target": 1}
    (one,) = sb.attribute(worded, ["bad film . a good w3 ."], n_steps=300, **options)
    ids = one.token_ids
    x = worded.embed(torch.tensor([ids]))[0]
    (start,) = starts(worded, [{"input_ids": ids}], one.setting["baseline"], 0, special_tokens)
    expected = logit(worded, ids, x, 1) - logit(worded, ids, start, 1)
    assert one.output_difference == pytest.approx(expected, abs=1e-10)
    assert one.scores.sum() == pytest.approx(expected, abs=1e-8)
    moved = [special_tokens == "replace" or own for own in one.attributable]
    np.testing.assert_array_equal((x != start).any(1).numpy(), moved)


@pytest.mark.filterwarnings("ignore:baseline=max_entropy")
@pytest.mark.parametrize("baseline", ["uniform", "max_entropy", "text:a good film"])
def test_order_company_and_token_budget_do_not_move_a_baseline(worded, baseline):
    texts = ["bad film .", "a good w3 . w4", "w9 bad film"]
    together = sb.attribute(worded, texts, baseline=baseline, n_steps=5)
    turned = sb.attribute(worded, texts[::-1], baseline=baseline, n_steps=5, token_budget=1)[::-1]
    for text, one, other in zip(texts, together, turned, strict=True):
        (alone,) = sb.attribute(worded, [text], baseline=baseline, n_steps=5)
        for found in (one.scores, other.scores):
            np.testing.assert_allclose(
                found, alone.scores, rtol=0, atol=1e-12 * np.abs(alone.scores).max()
            )


def test_a_setting_is_named_after_its_baseline(worded):
    choices = ["mask", "uniform", "text:a", np.zeros(16)]
    maps = sb.attribute(worded, ["a film"], baseline=choices, n_steps=2)
    assert [one.setting["baseline"] for one in maps[:3]] == choices[:3]
    assert len({one.setting["setting_id"] for one in maps}) == 4


@pytest.mark.filterwarnings("ignore:baseline=max_entropy")
@pytest.mark.parametrize("baseline", ["uniform", "max_entropy", "text:w8 w9"])
def test_captum_gets_the_same_baseline(worded, baseline):
    native, captum = sb.attribute(
        worded, ["bad film w3 ."], backend=["native", "captum"], baseline=baseline, n_steps=4
    )
    # Captum rounds its weights to float32.
    largest = np.abs(native.scores).max()
    np.testing.assert_allclose(captum.scores, native.scores, rtol=0, atol=1e-6 * largest)


# --- the user's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("good", ["good"] * 5),
        ("good film bads", ["good", "film", "bad", "##s", "good"]),
        ("a good film . bad w1 w2", ["a", "good", "film", ".", "bad"]),
    ],
)
def test_a_text_baseline_is_its_words_over_and_over_or_cut(worded, words, expected):
    tokens = ["[CLS]", "w1", "w2", "w3", "w4", "w5", "[SEP]"]
    ids = worded.tokenizer.convert_tokens_to_ids(tokens)
    (found,) = starts(worded, [{"input_ids": ids}], f"text:{words}")
    instead = worded.tokenizer.convert_tokens_to_ids(["[CLS]", *expected, "[SEP]"])
    assert torch.equal(found, worded.embed(torch.tensor([instead]))[0])


def test_a_text_baseline_runs_on_through_a_pair(worded):
    tokens = ["[CLS]", "w1", "w2", "[SEP]", "w3", "w4", "[SEP]"]
    ids = worded.tokenizer.convert_tokens_to_ids(tokens)
    (found,) = starts(worded, [{"input_ids": ids}], "text:a good film")
    expected = ["[CLS]", "a", "good", "[SEP]", "film", "a", "[SEP]"]
    instead = worded.tokenizer.convert_tokens_to_ids(expected)
    assert torch.equal(found, worded.embed(torch.tensor([instead]))[0])


def test_the_mask_token_as_text_is_the_mask_baseline(worded):
    own, named = sb.attribute(worded, ["a good film"], baseline=["text:[MASK]", "mask"], n_steps=4)
    np.testing.assert_array_equal(own.scores, named.scores)


@pytest.mark.parametrize("words", ["text:", "text:  "])
def test_a_text_without_words_is_refused(worded, words):
    with pytest.raises(InputError, match="expected words"):
        sb.attribute(worded, ["a film"], baseline=words)


def test_a_text_needs_a_tokenizer(bert):
    with pytest.raises(InputError, match=r"needs a tokenizer.*vector:FILE\.npy"):
        sb.attribute(bert, token_inputs(4), baseline="text:a film")


def test_a_vector_from_a_file_an_array_and_a_tensor_are_the_same_baseline(bert, tmp_path):
    vector = np.linspace(-1, 1, 16).astype(np.float32)
    np.save(tmp_path / "own.npy", vector)
    tensor = torch.from_numpy(vector)
    file = f"vector:{tmp_path / 'own.npy'}"
    array, tensor, rounded, file = (
        sb.attribute(bert, token_inputs(5), baseline=choice, n_steps=3, target=1)[0]
        for choice in (vector, tensor, tensor.bfloat16(), file)
    )
    np.testing.assert_array_equal(array.scores, file.scores)
    np.testing.assert_array_equal(array.scores, tensor.scores)
    assert np.abs(array.scores - rounded.scores).max() > 1e-6
    assert array.setting["setting_id"] == tensor.setting["setting_id"]
    assert array.setting["setting_id"] != rounded.setting["setting_id"]
    digest = array.setting["baseline"].removeprefix("vector:")
    assert file.setting["baseline"] == f"vector:{tmp_path / 'own.npy'}@{digest}"
    (start,) = starts(bert, token_inputs(5), file.setting["baseline"])
    assert torch.equal(start, torch.from_numpy(vector).double().expand(5, 16))


def test_a_setting_is_another_when_its_files_numbers_are_and_only_then(bert, tmp_path):
    path = tmp_path / "own.npy"

    def setting(values):
        np.save(path, values)
        (one,) = sb.attribute(bert, token_inputs(4), baseline=f"vector:{path}", n_steps=1)
        return one.setting["setting_id"], one.setting["baseline"]

    values = np.arange(16.0)
    before = setting(values)
    assert setting(values.astype(np.float32)) == setting(values.astype(">i4")) == before
    after = setting(values + np.eye(16)[3] * 1e-9)
    assert after[0] != before[0]
    with pytest.raises(InputError, match="has changed"):
        sb.attribute(bert, token_inputs(4), baseline=before[1], n_steps=1)
    with pytest.raises(InputError, match="has changed"):
        References(bert).vector(before[1])
    assert torch.equal(References(bert).vector(after[1])[:3], torch.arange(3.0).double())


# --- the largest entropy -------------------------------------------------------------------------------------------


def share(logits):
    """The entropy of softmax(logits) over log C, from the definition."""
    p = np.exp(logits - np.max(logits))
    p = p / p.sum()
    return float(-sum(q * math.log(q) for q in p) / math.log(len(p)))


def test_max_entropy_reaches_it_where_it_can_be_reached():
    model = scored_by(lambda e: 30 * linear(e))  # at the vocabulary's mean, the share is far from 1
    inputs = token_inputs(3, 8, 30)
    matrix = model.embedding.weight.detach()
    for one, start in zip(inputs, starts(model, inputs, "max_entropy"), strict=True):
        assert share(30 * linear(matrix.mean(0).expand(1, len(start), -1)).numpy() * [1, -1]) < 0.9
        assert share(30 * linear(start[None]).numpy() * [1, -1]) >= 0.999
        assert torch.equal(start, start[:1].expand_as(start))
        # It is a convex combination: weights >= 0 that sum to 1 solve for it exactly.
        left = np.concatenate([matrix.numpy().T, np.ones((1, VOCABULARY))])
        _, residual = nnls(left, np.append(start[0].numpy(), 1))
        assert residual < 1e-10
        assert baselines.diagnostics(opened(model, [one]), "max_entropy") >= 0.999


class Mixed(torch.nn.Module):
    """Three classes of the mean of a text over a vocabulary of two: one number says where on the line it is."""

    def __init__(self, logits):
        super().__init__()
        self.embedding = torch.nn.Embedding(2, 1, dtype=torch.float64)
        self.embedding.weight.data = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        self.logits = logits

    def forward(self, input_ids, **_):
        return self.logits(self.embedding(input_ids).mean((1, 2)))


def test_max_entropy_is_the_best_mixture_of_a_brute_force_search_and_says_so_where_that_is_little():
    def logits(z):
        return torch.stack([3 + 2 * (z - 0.7) ** 2, 0.5 * z, z * 0], -1)

    model = sb.wrap_model(Mixed(logits), embeddings="embedding")
    line = logits(torch.linspace(0, 1, 10_001, dtype=torch.float64)).numpy()
    best = max(map(share, line))
    assert best < 0.9
    with pytest.warns(UserWarning, match=rf"max_entropy.*4 tokens.*{best:.2f}.*0\.9"):
        sb.attribute(model, [{"input_ids": [0, 1, 1, 0]}], baseline="max_entropy", n_steps=2)
    ctx = opened(model, [{"input_ids": [0, 1, 1, 0]}])
    with pytest.warns(UserWarning, match="max_entropy"):
        (found,) = baselines.diagnostics(ctx, "max_entropy")
    # The search ends where a step of 1e-6 of the weights' spread gains nothing: the top is flat to second order.
    assert best - 1e-9 < found < best + 1e-9


def test_the_user_is_told_once(bert):
    model = sb.wrap_model(Mixed(lambda z: torch.stack([4 + z, z], -1)), embeddings="embedding")
    inputs = [{"input_ids": [0] * length} for length in (1, 2, 3, 4)]
    with pytest.warns(UserWarning, match="max_entropy") as told:
        sb.attribute(model, inputs, baseline="max_entropy", n_steps=1)
    assert len(told) == 1


def test_equal_frames_share_one_search_and_cost_what_it_says(bert, monkeypatch):
    calls = []
    search = baselines._mixture
    monkeypatch.setattr(
        baselines, "_mixture", lambda *given: calls.append(given[1]) or search(*given)
    )
    refs = References(bert)
    for inputs in (token_inputs(6, 6, 6, seed=1), token_inputs(6, seed=2)):
        opened(bert, inputs, refs=refs).path("max_entropy", "keep")
    (found,) = refs.cache.values()
    assert len(calls) == found.n_gradients <= baselines.MOST_GRADIENTS
    opened(bert, token_inputs(7), refs=refs).path("max_entropy", "keep")
    assert len(refs.cache) == 2


def test_a_frame_is_searched_for_alone_and_without_chance(bert):
    inputs = token_inputs(5, 9)
    for one, start in zip(inputs, starts(bert, inputs, "max_entropy"), strict=True):
        for seed in (0, 1):
            assert torch.equal(starts(bert, [one], "max_entropy", seed)[0], start)


def test_frames_differ_by_special_tokens_and_token_types(worded):
    def frames(*words, types=None):
        ids = worded.tokenizer.convert_tokens_to_ids(words)
        item = {"input_ids": ids} | ({} if types is None else {"token_type_ids": types})
        return baselines._frames(opened(worded, [item]))[0]

    plain = frames("[CLS]", "good", "bad", "[SEP]")
    assert frames("[CLS]", "w1", "w2", "[SEP]") == plain
    assert frames("[CLS]", "good", "[SEP]", "[SEP]") != plain
    assert frames("[CLS]", "good", "bad", "[SEP]", types=[0, 0, 1, 1]) != plain
    assert plain.ids[0] == worded.tokenizer.cls_token_id
    assert plain.ids[1] == plain.ids[2] not in worded.tokenizer.all_special_ids


def test_a_model_of_one_class_has_no_entropy():
    model = sb.wrap_model(Mixed(lambda z: z[:, None]), embeddings="embedding", labels=("score",))
    frame = baselines.Frame((0, 0), None, (True, True), (True, True))
    with pytest.raises(InputError, match="2 classes"):
        baselines.entropy_maximum(References(model), frame)


def test_on_the_bundled_model_max_entropy_takes_a_few_gradients_to_0_999(default_model):
    # At 4, 24 and 64 tokens; what the yaml says of cost and quality.
    refs = References(default_model)
    texts = ["good film", " ".join(["a"] * 22), " ".join(["a"] * 62)]
    items = [dict(default_model.tokenizer(text)) for text in texts]
    ctx = opened(default_model, items, refs=refs)
    with default_model.frozen():
        reached = baselines.diagnostics(ctx, "max_entropy")
    # Padding and company move float32 logits near 0 by about 1e-6, and the share by less.
    assert (reached >= 0.999 - 1e-5).all()
    assert [len(frame.ids) for frame in refs.cache] == [4, 24, 64]
    assert max(one.n_gradients for one in refs.cache.values()) <= 10


def test_diagnostics_are_the_entropy_of_the_prediction_at_any_start(worded):
    tokens = ["[CLS]", "good", "film", "[SEP]"]
    ids = worded.tokenizer.convert_tokens_to_ids(tokens)
    masked = worded.tokenizer.convert_tokens_to_ids(["[CLS]", "[MASK]", "[MASK]", "[SEP]"])
    embeddings = worded.embed(torch.tensor([masked]))
    expected = share(worded.output(torch.tensor([ids]), embeddings=embeddings)[0].detach().numpy())
    ctx = opened(worded, [{"input_ids": ids}, *token_inputs(9)])
    assert baselines.diagnostics(ctx, "mask")[0] == pytest.approx(expected, abs=1e-12)


# --- random references ---------------------------------------------------------------------------------------------

CORPUS = "good film .\n\nbad films\na w1 w2 w3 w4\n"
STREAM = ["good", "film", ".", "bad", "film", "##s", "a", "w1", "w2", "w3", "w4"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(CORPUS)
    return f"file:{path}"


def drawn_ids(model, item, references, n, special_tokens="keep", seed=0):
    """The token ids of n references, found by their embeddings."""
    ctx = opened(model, [item], seed)
    rows = baselines.random_reference(ctx, references, special_tokens)([0] * n, range(n))
    matrix = model.embedding.weight.detach()
    equal = (rows[:, :, None] == matrix).all(-1)  # [R T V]
    assert equal.any(-1).all()
    return equal.int().argmax(-1)


def test_references_from_a_file_are_its_windows_each_as_often_between_the_special_tokens(
    worded, corpus
):
    tokens = ["[CLS]", "w5", "w6", "w7", "[SEP]"]
    item = {"input_ids": worded.tokenizer.convert_tokens_to_ids(tokens)}
    n = 3000
    found = drawn_ids(worded, item, corpus, n)
    rows = [tuple(worded.tokenizer.convert_ids_to_tokens(row)) for row in found]
    windows = [("[CLS]", *STREAM[at : at + 3], "[SEP]") for at in range(len(STREAM) - 2)]
    assert set(rows) == set(windows)
    counts = np.array([rows.count(one) for one in windows])
    p = 1 / len(windows)
    assert (np.abs(counts - n * p) < 5 * (n * p * (1 - p)) ** 0.5).all()


def test_references_that_replace_special_tokens_are_windows_of_the_whole_length(worded, corpus):
    item = {"input_ids": worded.tokenizer.convert_tokens_to_ids(["[CLS]", "w5", "[SEP]"])}
    for row in drawn_ids(worded, item, corpus, 20, "replace"):
        tokens = worded.tokenizer.convert_ids_to_tokens(row)
        assert any(tokens == STREAM[at : at + 3] for at in range(len(STREAM) - 2))


def test_references_from_the_vocabulary_are_ordinary_tokens_each_as_often(worded):
    item = {"input_ids": worded.tokenizer.convert_tokens_to_ids(["[CLS]", *["w5"] * 20, "[SEP]"])}
    found = drawn_ids(worded, item, "vocabulary", 500)[:, 1:-1].flatten()
    counts = np.bincount(found, minlength=VOCABULARY)
    assert (counts[:5] == 0).all()
    n, p = len(found), 1 / (VOCABULARY - 5)
    assert (np.abs(counts[5:] - n * p) < 5 * (n * p) ** 0.5).all()


def test_references_from_the_bundled_texts_are_windows_of_the_training_split(default_model):
    from saliency_bench.data import movie_reviews

    stream = []
    for example in movie_reviews.load(split="train"):
        words = default_model.tokenizer.tokenize(example.text)
        stream += default_model.tokenizer.convert_tokens_to_ids(words)
    corpus = References(default_model).corpus("movie_reviews")
    assert corpus.tolist() == stream
    ctx = opened(default_model, [dict(default_model.tokenizer("a gripping , funny film"))])
    (start,) = baselines.random_reference(ctx, "movie_reviews", "keep")([0], [7])
    text = " ".join(map(str, stream))
    distance = torch.cdist(start[1:-1], default_model.embedding.weight.detach())
    assert f" {' '.join(map(str, distance.argmin(1).tolist()))} " in text
    assert torch.equal(start[[0, -1]], ctx.embeddings[0][[0, -1]])


@pytest.mark.parametrize("references", ["vocabulary", "uniform", "FILE"])
def test_a_draw_belongs_to_the_text_the_seed_and_its_number(worded, corpus, references):
    references = corpus if references == "FILE" else references
    texts = [["w1", "w2", "w3"], ["w4", "w5", "w6", "w7", "w8"], ["w9", "a"]]
    inputs = [{"input_ids": worded.tokenizer.convert_tokens_to_ids(one)} for one in texts]
    ctx = opened(worded, inputs)
    reference = baselines.random_reference(ctx, references, "keep")
    pairs = [(2, 5), (0, 3), (1, 3), (0, 4), (0, 3)]
    rows = reference(*zip(*pairs, strict=True))
    assert torch.equal(rows[1], rows[4])
    # One number may draw what another drew: a corpus has few windows, and where it lies is part of its name.
    assert not all(torch.equal(rows[1], draw) for draw in reference([0] * 10, range(10)))
    for row, (example, number) in zip(rows, pairs, strict=True):
        length = len(texts[example])
        assert torch.equal(row, reference([example], [number])[0])
        assert torch.equal(row[length:], ctx.embeddings[example][length:])  # padding stays
        alone = baselines.random_reference(opened(worded, [inputs[example]]), references, "keep")
        assert torch.equal(row[:length], alone([0], [number])[0])
    other = baselines.random_reference(opened(worded, inputs, seed=1), references, "keep")
    assert not torch.equal(other(*zip(*pairs, strict=True)), rows)


def test_a_file_gives_the_same_references_under_another_name(worded, corpus, tmp_path):
    (tmp_path / "moved.txt").write_text(CORPUS.replace("\n", "\r\n"))
    options = {"n_samples": 4, "method": "expected_gradients"}
    here, there = sb.attribute(
        worded, ["a good w9"], references=[corpus, f"file:{tmp_path / 'moved.txt'}"], **options
    )
    np.testing.assert_array_equal(here.scores, there.scores)


N = 2000


def test_expected_gradients_of_a_linear_score_are_weight_times_distance_to_the_mean_reference(
    worded, corpus
):
    model = scored_by(linear, tokenizer=worded.tokenizer)
    tokens = ["[CLS]", "w5", "w6", "w7", "[SEP]"]
    item = {"input_ids": worded.tokenizer.convert_tokens_to_ids(tokens)}
    matrix = model.embedding.weight.detach() @ WEIGHTS
    stream = matrix[worded.tokenizer.convert_tokens_to_ids(STREAM)]
    # At place t of a window of 3 stand tokens t to t - 3 of the stream, each as often.
    windows = torch.stack([stream[at : at + len(stream) - 2] for at in range(3)])
    expected = {
        "vocabulary": (matrix[5:].mean().expand(3), matrix[5:].std().expand(3)),
        corpus: (windows.mean(1), windows.std(1)),
        "uniform": (
            matrix.mean().expand(3),
            (model.embedding.weight.detach().std(0, correction=0) * WEIGHTS).norm().expand(3),
        ),
    }
    x = matrix[item["input_ids"]][1:-1]
    maps = sb.attribute(
        model, [item], "expected_gradients", references=list(expected), n_samples=N, target=0
    )
    for one, (mean, std) in zip(maps, expected.values(), strict=True):
        assert (np.abs(one.scores[1:-1] - (x - mean).numpy()) < (5 * std / N**0.5).numpy()).all()
        assert one.scores[0] == one.scores[-1] == 0


@pytest.mark.parametrize("references", ["vocabulary", "uniform"])
def test_the_sum_of_expected_gradients_tends_to_the_score_minus_that_of_the_references(references):
    # F = Σ_t (w·x_t)³, so E F(x') is known: the third moment of the vocabulary, or of a sum of uniform numbers.
    model, (item,) = scored_by(lambda e: ((e @ WEIGHTS) ** 3).sum(1)), token_inputs(3)
    matrix = model.embedding.weight.detach()
    mean, spread = matrix.mean(0) @ WEIGHTS, (matrix.std(0, correction=0) * WEIGHTS).norm()
    third = ((matrix @ WEIGHTS) ** 3).mean()
    if references == "uniform":  # symmetric about its mean
        third = mean**3 + 3 * mean * spread**2
    x = matrix[item["input_ids"]] @ WEIGHTS
    expected = float((x**3 - third).sum())
    sums = np.array(
        [
            one.scores.sum()
            for one in sb.attribute(
                model,
                [item],
                "expected_gradients",
                references=references,
                n_samples=200,
                target=0,
                seed=list(range(30)),
            )
        ]
    )
    assert abs(sums.mean() - expected) < 5 * sums.std(ddof=1) / len(sums) ** 0.5
    assert sums.std(ddof=1) / len(sums) ** 0.5 < 0.2 * abs(expected)  # or the law says little


def test_references_without_a_tokenizer_fall_back_to_the_vocabulary(bert):
    from saliency_bench.attribution.settings import single_settings
    from saliency_bench.core.conf import method_defaults
    from saliency_bench.studies.prepare import fit_settings

    asked, used = (
        sb.attribute(bert, token_inputs(4), "expected_gradients", n_samples=4, **options)[0]
        for options in ({}, {"references": "vocabulary"})
    )
    assert asked.setting["references"] == "vocabulary"
    np.testing.assert_array_equal(asked.scores, used.scores)
    entry = method_defaults("expected_gradients")
    assert entry["references"] == "movie_reviews"
    setting = single_settings({"eg": entry})["eg"]
    ((fitted,), (warning,)) = fit_settings(bert, [setting])
    assert fitted == replace(setting, hyper={**setting.hyper, "references": "vocabulary"})
    assert warning["source"] == "method.eg.references"
    assert "no tokenizer: vocabulary" in warning["message"]


def test_files_are_named_by_their_content_when_settings_are_fitted(worded, corpus, tmp_path):
    from saliency_bench.attribution.settings import single_settings
    from saliency_bench.core.conf import method_defaults
    from saliency_bench.studies.prepare import fit_settings

    entry = method_defaults("expected_gradients") | {"references": corpus}
    setting = single_settings({"eg": entry})["eg"]
    ((fitted,), warnings) = fit_settings(worded, [setting], longest=len(STREAM))
    assert not warnings
    name = fitted.hyper["references"]
    assert name.startswith(f"{corpus}@")
    assert len(name) == len(corpus) + 13
    assert fit_settings(worded, [fitted])[0] == [fitted]
    with pytest.raises(InputError, match=rf"method\.eg\.references.*{len(STREAM) + 1} tokens"):
        fit_settings(worded, [setting], longest=len(STREAM) + 1)
    (tmp_path / "corpus.txt").write_text(CORPUS.replace("bad", "good"))
    with pytest.raises(InputError, match="has changed"):
        fit_settings(worded, [fitted])
    with pytest.raises(InputError, match="has changed"):
        References(worded).corpus(name)
    ((other,), _) = fit_settings(worded, [setting])
    assert other.id != fitted.id


def test_special_tokens_are_kept_or_replaced_and_nothing_else(bert):
    with pytest.raises(InputError, match="did you mean 'keep'"):
        sb.attribute(bert, token_inputs(4), "expected_gradients", baseline_special_tokens="kept")
