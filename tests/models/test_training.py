"""What is masked in masked fine-tuning."""

import torch
from tiny import FrameTokenizer

from training.fine_tuning import mask

IDS = torch.tensor([[1, *range(10, 40), 2, 0, 0]] * 200)
FRAME = torch.tensor([[True, *[False] * 30, True, True, True]] * 200)


def masked(shares, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return mask(IDS, shares, FrameTokenizer(), stream)


def test_no_share_masks_nothing_and_a_whole_one_all_but_the_frame():
    assert torch.equal(masked(torch.zeros(200)), IDS)
    found = masked(torch.ones(200))
    assert torch.equal(found[FRAME], IDS[FRAME])
    assert (found[~FRAME] == FrameTokenizer.mask_token_id).all()


def test_each_text_has_its_own_share():
    shares = torch.linspace(0, 1, 200)
    found = masked(shares) == FrameTokenizer.mask_token_id
    observed = found[:, 1:31].float().mean(1)
    # Five binomial standard errors of 30 tokens.
    assert ((observed - shares).abs() <= 5 * (shares * (1 - shares) / 30).sqrt() + 1e-6).all()


def test_the_same_stream_masks_the_same():
    shares = torch.full((200,), 0.5)
    assert torch.equal(masked(shares), masked(shares))
    assert not torch.equal(masked(shares), masked(shares, seed=1))
