"""Padding that ids come with: left out where the model does not see it, else explained at the length given."""

import warnings

import numpy as np
import pytest
import torch
from tiny import FrameTokenizer, tiny_bert
from torch import nn
from torch.utils.data import DataLoader

import saliency_bench as sb
from saliency_bench.models.padding import N_TOKENS, size_of_trial
from saliency_bench.models.preflight import inspect_model, inspect_texts
from saliency_bench.models.tasks.encoding import encoded_ids

IDS, SHORT, PAD = [1, 9, 12, 7, 30, 8, 21, 2], [1, 9, 12, 7, 2], 0
#: Batches of padded texts as loaders bring them.
PADDED = [*SHORT, PAD, PAD, PAD]
MASK = [int(token != PAD) for token in PADDED]


class Averaging(nn.Module):
    """The article's model: the mean of an encoder's last layer over all positions, padded ones too."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = tiny_bert().bert
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.head = nn.Linear(16, 3).double()

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.bert(input_ids, attention_mask)[0].mean(1))


class Masking(Averaging):
    """The same without the padded ones."""

    def forward(self, input_ids, attention_mask=None):
        hidden = self.bert(input_ids, attention_mask)[0]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def texts():
    return [
        {"input_ids": torch.tensor(PADDED), "attention_mask": torch.tensor(MASK)},
        {"input_ids": torch.tensor(IDS), "attention_mask": torch.ones(8, dtype=torch.long)},
    ]


@torch.no_grad()
def said(module, ids, mask=None):
    given = None if mask is None else torch.tensor([mask])
    return module(torch.tensor([ids]), given).softmax(-1)[0]


@pytest.fixture(params=[{}, {"encoder": "bert"}], ids=["words", "composite"])
def averaging(request):
    return sb.wrap_model(Averaging(), FrameTokenizer(), **request.param)


def test_class_and_probability_are_those_of_the_module_at_the_length_given(averaging):
    found = sb.attribute(averaging, DataLoader(texts(), batch_size=2), "vanilla")
    for one, (ids, mask) in zip(found, [(PADDED, MASK), (IDS, None)], strict=True):
        expected = said(averaging.module, ids, mask)
        assert one.target == int(expected.argmax())
        assert one.probability == pytest.approx(float(expected.max()), abs=1e-12)
    assert abs(found[0].probability - float(said(averaging.module, SHORT).max())) > 1e-3


def test_pads_are_marked_and_get_nothing(averaging):
    (found, _) = sb.attribute(averaging, texts(), "vanilla")
    assert found.token_ids == tuple(PADDED)
    assert found.attributable == (False, True, True, True, *[False] * 4)
    assert found.scores[5:].tolist() == [0, 0, 0]
    assert [word.text for word in found.words()] == ["t9", "t12", "t7"]


def test_a_text_with_its_pads_is_removed_from_and_integrated_at_its_length(averaging):
    """Leave-one-out, and the two ends of a path, against the plain module on padded ids."""
    whole = said(averaging.module, PADDED, MASK)
    for masked, given in (([2], "leave_one_out"), ([1, 2, 3], "integrated_gradients")):
        more = {"removal": "mask"} if given == "leave_one_out" else {"baseline": "mask"}
        found = sb.attribute(averaging, texts(), given, target=0, output="probability", **more)[0]
        ids = [FrameTokenizer.mask_token_id if p in masked else t for p, t in enumerate(PADDED)]
        change = float(whole[0] - said(averaging.module, ids, MASK)[0])
        seen = found.scores[2] if given == "leave_one_out" else found.output_difference
        assert seen == pytest.approx(change, abs=1e-12)


def test_a_text_that_would_lose_its_padding_is_not_shortened_and_others_are(averaging):
    maps = sb.attribute(averaging, texts(), "vanilla")
    assert np.isfinite(sb.evaluate(averaging, maps, ["srg"], removal="mask")["value"]).all()
    deleted = sb.evaluate(averaging, maps, ["srg"], removal="delete")
    assert deleted["status"].tolist() == ["not_applicable", "ok"]
    assert "depend on the padding" in deleted["reason"][0]


def test_a_saved_map_keeps_its_pads(averaging, tmp_path):
    (found, _) = sb.attribute(averaging, texts(), "vanilla")
    found.save(tmp_path / "map.json")
    back = sb.AttributionMap.load(tmp_path / "map.json")
    assert back.encoded == found.encoded
    again = sb.evaluate(averaging, [back], ["comprehensiveness"], removal="zero")["value"]
    assert again.tolist() == (
        sb.evaluate(averaging, [found], ["comprehensiveness"], removal="zero")["value"].tolist()
    )


def test_what_the_model_does_not_see_is_left_out():
    model = sb.wrap_model(Masking(), FrameTokenizer())
    found, _ = sb.attribute(model, texts(), "vanilla")
    assert found.token_ids == tuple(SHORT)
    assert found.probability == pytest.approx(float(said(model.module, SHORT).max()), abs=1e-12)


def test_pads_before_a_text_are_kept_where_positions_count_them():
    model = sb.wrap_model(Masking(), FrameTokenizer())
    left = {"input_ids": PADDED[::-1], "attention_mask": MASK[::-1]}
    (found,) = sb.attribute(model, [left], "vanilla")
    expected = said(model.module, PADDED[::-1], MASK[::-1])
    assert found.token_ids == tuple(PADDED[::-1])
    assert found.probability == pytest.approx(float(expected.max()), abs=1e-12)


@pytest.mark.parametrize("tokenizer", [FrameTokenizer(), None], ids=["tokenizer", "config"])
def test_padding_without_a_mask_is_read_as_words_and_said_so(tokenizer):
    module = tiny_bert()
    model = sb.wrap_model(module, tokenizer)
    with pytest.warns(UserWarning, match=r"inputs\[1\] is padded and has no attention_mask"):
        found = sb.attribute(model, torch.tensor([IDS, PADDED]), "vanilla")
    with torch.no_grad():
        expected = module(input_ids=torch.tensor([PADDED])).logits.softmax(-1).max()
    assert found[1].probability == pytest.approx(float(expected), abs=1e-12)
    assert not any(found[1].attributable[5:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb.attribute(model, [{"input_ids": PADDED, "attention_mask": MASK}], "vanilla")


def test_the_probe_pads_modules_without_a_configuration():
    for module, depends in ((Averaging(), True), (Masking(), False)):
        found = inspect_model(sb.wrap_model(module, FrameTokenizer()), tuple(IDS), None)
        assert (found.padding_difference > 1e-3) is depends


@pytest.mark.parametrize("n_tokens", [60, 62, 64])
def test_a_text_as_long_as_the_model_is_probed_within_its_positions(n_tokens):
    model = sb.wrap_model(tiny_bert(), FrameTokenizer())  # of 64 positions
    ids = {"input_ids": [1, *[9, 12] * ((n_tokens - 2) // 2), 2]}
    found = inspect_texts(model, [encoded_ids(model, ids, "0", None, "")])
    assert found.padding_difference < 1e-12


def windowed(kind, attention, dtype=torch.float64, window=8):
    """A causal language model whose layers see a few tokens back."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8, "intermediate_size": 24, "max_position_embeddings": 128, "sliding_window": window,
        "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **sizes)
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return sb.wrap_model(module.to(dtype).eval(), task="text-generation")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gemma3_text", "mistral"])
def test_a_text_has_its_own_scores_where_its_pads_outnumber_a_window(kind, attention):
    """A pad that nothing but pads stands before attends to nothing; all in a block of 104 tokens of 114."""
    model = windowed(kind, attention)
    stream = np.random.default_rng(0)
    inputs = [{"input_ids": stream.integers(3, 40, n).tolist()} for n in (30, 36, 38)]
    together = sb.attribute(model, inputs, "vanilla")
    for one, found in zip(inputs, together, strict=True):
        (alone,) = sb.attribute(model, one, "vanilla")
        # Softmax and norms are computed in float32: a thousand of its rounding errors.
        np.testing.assert_allclose(
            found.scores, alone.scores, rtol=0, atol=1e-4 * alone.scores.max()
        )


def test_padding_is_tried_at_the_length_at_which_it_is_used():
    model = windowed("gemma3_text", "eager")
    assert [model.pads_exactly(n) for n in (3, 7, 8, 100)] == [True, True, False, False]
    exact = windowed("gemma3_text", "sdpa")
    assert all(exact.pads_exactly(n) for n in (3, 8, 100, 10_000))


def test_padding_is_tried_in_few_sizes_that_are_no_smaller_than_asked_and_no_longer_than_the_model_takes():
    sizes = {n: size_of_trial(n, 10**6) for n in range(1, 1000)}
    assert all(n <= size < max(2 * n, 4) for n, size in sizes.items())
    assert len({*sizes.values()}) <= 10  # those below 2, 4, 8 ... 1024
    assert all(size_of_trial(n, 128) + N_TOKENS <= 128 for n in range(1, 127))
