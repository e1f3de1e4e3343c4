"""Where a text is read at one token, a vocabulary's logits are computed there alone, and are those of whole texts."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny_heads import VOCABULARY, tiny_head, word_tokenizer

import saliency_bench as sb
from saliency_bench.core.rows import Setting
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block

SHORT, LONG = "what is a", "the capital of france is paris of rome"
OPTIONS = [" paris .", " rome of france"]
#: Both ways are float64 arithmetic in another order; scores are of the size of a logit.
SAME = 1e-12
PATH = {
    "n_steps": 3,
    "quadrature": "midpoint",
    "baseline": "unk",
    "baseline_special_tokens": "keep",
}
METHODS = {
    "vanilla": {},
    "integrated_gradients": PATH,
    "leave_one_out": {"removal": "unk"},
    "raw_attention": {},
}
REDUCTIONS = {"vanilla": "l2", "integrated_gradients": "sum", "leave_one_out": "none"}
SETTINGS = [
    Setting(name, name, "native", reduction, "predicted", "logit", 0, METHODS[name])
    for name, reduction in REDUCTIONS.items()
]


@pytest.fixture(params=["llama", "gpt2", "opt"])
def module(request):
    return tiny_head("text-generation", request.param)


@pytest.fixture
def wrapped(tmp_path):
    tokenizer = word_tokenizer(tmp_path)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return lambda module: sb.wrap_model(module, tokenizer, task="text-generation")


def whole(model):
    """The same, with the logits of all tokens."""
    vars(model)["keeps_places"] = False
    return model


@contextmanager
def tokens_read(module):
    """The number of tokens of each pass whose logits are computed."""
    read = []

    def note(_, args, output):
        assert output.shape[-1] == VOCABULARY
        read.append(output.shape[1])

    handle = module.get_output_embeddings().register_forward_hook(note)
    try:
        yield read
    finally:
        handle.remove()


def explained(model, *inputs):
    """The maps of a block of inputs by every method that is computed in passes of its own, and the tokens that are read."""
    texts = [sb.attribute(model, [item], "vanilla")[0].encoded for item in inputs]
    with model.frozen(), tokens_read(model.module) as read:
        block = open_block(References(model, may_share=False), texts, "predicted", 10_000)
        maps = block.explain(SETTINGS)
    return [map_ for setting in SETTINGS for map_ in maps[setting.id]], read


@pytest.mark.parametrize(
    ("inputs", "n_places"),
    [
        ((SHORT, SHORT), {1}),  # read at one place
        ((SHORT, LONG), {1, 2}),  # padded, and read at the end of each
        (({"text": LONG, "options": OPTIONS},), {4}),  # from the end of the text on
    ],
    ids=["equal lengths", "padded", "options"],
)
def test_a_pass_computes_the_logits_of_the_tokens_that_are_read(module, wrapped, inputs, n_places):
    ours, read = explained(wrapped(module), *inputs)
    theirs, read_whole = explained(whole(wrapped(module)), *inputs)
    assert {*read} <= n_places
    assert max(read) == max(n_places) < max(read_whole)
    assert len(read) == len(read_whole)
    for map_, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(map_.scores, expected.scores, rtol=0, atol=SAME)


@pytest.mark.parametrize(
    ("method", "ruled"),
    [
        *((method, {}) for method in METHODS),
        *(("input_x_gradient", {"backward": rule}) for rule in ("attnlrp", "cp_lrp", "gim")),
    ],
)
def test_maps_are_those_of_whole_logits(module, wrapped, method, ruled):
    (ours,), (theirs,) = (
        sb.attribute(model, LONG, method, **METHODS.get(method, {}), **ruled)
        for model in (wrapped(module), whole(wrapped(module)))
    )
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=SAME)
    assert ours.probability == pytest.approx(theirs.probability, rel=SAME)


@pytest.mark.parametrize(
    "keep",
    [
        lambda logits, places: logits,
        lambda logits, places: logits[:, -len(places) :],
        lambda logits, places: logits[:, -int(places) :],
    ],
    ids=["ignores them", "reads the last ones", "takes a number"],
)
def test_a_module_that_keeps_other_places_is_read_whole(module, wrapped, keep):
    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config = module, module.config

        def forward(self, input_ids, attention_mask=None, logits_to_keep=None):
            logits = self.inner(input_ids, attention_mask, use_cache=False).logits
            return logits if logits_to_keep is None else keep(logits, logits_to_keep)

    model = wrapped(Other())
    assert not model.keeps_places
    (ours,), (theirs,) = (
        sb.attribute(one, LONG, "vanilla") for one in (model, whole(wrapped(module)))
    )
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=SAME)


def test_no_cache_is_kept_for_tokens_that_would_follow(module, wrapped, monkeypatch):
    """RWKV writes to its cache in place, so that it would have no gradient."""
    kept, forward = [], type(module).forward

    def noted(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, **more):
        kept.append((use_cache, past_key_values is not None))
        return forward(
            self, input_ids=input_ids, attention_mask=attention_mask,
            past_key_values=past_key_values, use_cache=use_cache, **more,
        )  # fmt: skip

    monkeypatch.setattr(type(module), "forward", noted)
    model = wrapped(module)
    sb.attribute(model, [SHORT, LONG], "vanilla")
    sb.attribute(model, LONG, "leave_one_out", removal="unk")
    assert {*kept} == {(False, False), (True, True)}  # those that share their beginnings


class Blind(torch.nn.Module):
    """A decoder whose outputs are NaN where a padded row has nothing to attend to."""

    def __init__(self, module):
        super().__init__()
        self.inner, self.config = module, module.config

    def forward(self, input_ids, attention_mask=None):
        logits = self.inner(input_ids, attention_mask, use_cache=False).logits
        blind = torch.zeros(len(input_ids)) if attention_mask is None else 1 - attention_mask[:, -3]
        return torch.where(blind.bool()[:, None, None], torch.nan, logits)


def test_padding_that_gives_nan_is_no_exact_padding(module, wrapped):
    assert wrapped(module).pads_exactly()
    assert not wrapped(Blind(module)).pads_exactly()
