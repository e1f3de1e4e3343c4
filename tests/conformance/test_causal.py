"""Every causal language model of the installed transformers: the numbers of a slow oracle, or a reason for none."""

import pytest
from causal import causal_names, examine_causal
from finding import NOT_BUILT, PASSES, REFUSED

#: In the default run, one of each kind.
KINDS = {
    "llama": PASSES,  # grouped heads, rotary positions
    "mistral": PASSES,  # a sliding window
    "gemma2": PASSES,  # scales its embeddings; windows in turn
    "gpt2": PASSES,  # a table of positions, tied embeddings
    "opt": PASSES,  # positions from 2
    "bloom": PASSES,  # no positions but in the attention
}


@pytest.mark.parametrize("name", KINDS)
def test_a_causal_model_has_the_numbers_of_a_loop(name):
    found = examine_causal(name)
    assert found.status == KINDS[name], found


@pytest.mark.conformance
@pytest.mark.parametrize("name", [name for name in causal_names() if name not in KINDS])
def test_every_causal_model_passes_or_is_refused_with_a_reason(name):
    found = examine_causal(name)
    assert found.status in {PASSES, REFUSED, NOT_BUILT}, found
    assert (found.status == PASSES) == (not found.reason)
