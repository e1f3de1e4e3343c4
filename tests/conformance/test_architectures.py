"""Every architecture of the installed transformers that classifies sequences: right numbers, or a reason for none."""

import pytest
from architectures import names
from checks import examine
from finding import NOT_BUILT, PASSES, REFUSED

#: In the default run, one of each kind. All of them take ten minutes, a tenth of a second to minutes each.
KINDS = {
    "bert": PASSES,
    "roberta": PASSES,  # positions from the pad id
    "deberta-v2": PASSES,  # relative positions
    "modernbert": PASSES,  # local attention
    "xlnet": PASSES,  # embeddings [T B D]
    "longformer": PASSES,  # pads by itself
    "ctrl": PASSES,  # edits its embeddings in place
    "mvp": PASSES,  # two tables receive the ids
    "gpt2": PASSES,  # pools at the last token
    "gemma2": PASSES,  # scales its embeddings
    "mixtral": PASSES,  # experts
    "t5": PASSES,  # reads a text twice
    "bart": PASSES,
    "fnet": PASSES,  # padding changes its outputs
    "reformer": REFUSED,
    "yoso": REFUSED,
    "canine": REFUSED,
}


@pytest.mark.parametrize("name", KINDS)
def test_an_architecture_has_right_numbers_or_a_reason_for_none(name):
    found = examine(name)
    assert found.status == KINDS[name], found
    assert (found.status == PASSES) == (not found.reason)


@pytest.mark.conformance
@pytest.mark.parametrize("name", [name for name in names() if name not in KINDS])
def test_every_architecture_passes_or_is_refused_with_a_reason(name):
    found = examine(name)
    assert found.status in {PASSES, REFUSED, NOT_BUILT}, found
    assert (found.status == PASSES) == (not found.reason)
