"""Normal numbers by counter, against Philox on Python's whole numbers and numpy's generator, and scipy's normal law."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from saliency_bench.attribution.philox import WORD, normal, normal_pair, words

CPU = torch.device("cpu")
#: Multipliers and increments of Philox with four words, by bits of a word (Salmon et al. 2011, section 3.3).
CONSTANTS = {
    32: ((0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)),
    64: ((0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)),
}


def philox(counter, key, bits):
    """Ten rounds of Philox with four words of so many bits, on whole numbers without end."""
    (m0, m1), increments = CONSTANTS[bits]
    last = 2**bits - 1
    for turn in range(10):
        k0, k1 = (
            (word + turn * increment) & last
            for word, increment in zip(key, increments, strict=True)
        )
        high0, low0 = divmod(m0 * counter[0], 2**bits)
        high1, low1 = divmod(m1 * counter[2], 2**bits)
        counter = high1 ^ counter[1] ^ k0, low1, high0 ^ counter[3] ^ k1, low0
    return counter


def many_words(n, seed=0):
    drawn = np.random.default_rng(seed).integers(0, 2**32, (n, 6))
    drawn[:8] = WORD * (np.arange(8)[:, None] >> np.arange(6) & 1)  # ends of the range, mixed
    return torch.from_numpy(drawn)


def words_of(six):
    return torch.stack(words(tuple(six.T[:4]), tuple(six.T[4:])), 1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_words_are_the_published_answers(counter, key, expected):
    assert tuple(words_of(torch.tensor([[*counter, *key]]))[0].tolist()) == expected


def test_the_oracle_with_64_bits_is_numpys_generator():
    generator = np.random.Philox(counter=5, key=2**64 + 3)  # counter and key as one number each
    # numpy adds 1 to its counter before it draws.
    assert tuple(map(int, generator.random_raw(4))) == philox((6, 0, 0, 0), (3, 1), 64)


def test_words_are_those_of_the_oracle():
    six = many_words(500)
    expected = [philox(tuple(row[:4]), tuple(row[4:]), 32) for row in six.tolist()]
    assert words_of(six).tolist() == [list(row) for row in expected]


def test_a_pair_of_normal_numbers_is_that_of_box_and_muller():
    six = many_words(100_000)
    # Ends of the range, of quarters of the circle, and of the mantissas of which logarithms are taken.
    ends = [0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30, WORD]
    edges = torch.tensor([*ends, *(int(2**power) + k for power in (30.5, 31.5) for k in (0, 1))])
    radius = torch.cat([six[:, 0], edges.repeat(len(edges))])
    angle = torch.cat([six[:, 1], edges.repeat_interleave(len(edges))])
    r = np.sqrt(-2 * np.log((radius.double().numpy() + 0.5) / 2**32))
    theta = 2 * np.pi * angle.double().numpy() / 2**32
    # Series are cut at 1e-10 of r; the oracle's angles below 2π are rounded to 1e-15.
    for found, expected in zip(
        normal_pair(radius, angle), (r * np.cos(theta), r * np.sin(theta)), strict=True
    ):
        assert (np.abs(found.numpy() - expected) <= 1e-10 * r).all()


def test_numbers_are_those_of_the_counters_that_name_them():
    keys, numbers = [2**63 - 5, 7], [3, 2**40 + 1]
    drawn = normal(keys, numbers, (3, 6), CPU)
    for row, (key, number) in enumerate(zip(keys, numbers, strict=True)):
        for token in range(3):
            for dimension in range(6):
                counter = dimension // 4, token, number & WORD, number >> 32
                made = philox(counter, (key & WORD, key >> 32), 32)
                pair = dimension % 4 // 2
                two = normal_pair(*(torch.tensor([made[2 * pair + k]]) for k in range(2)))
                assert drawn[row, token, dimension] == two[dimension % 2][0].float()


def test_a_number_depends_on_its_own_place_alone():
    keys, numbers = [11, 12, 11, 13], [0, 1, 2, 3]
    drawn = normal(keys, numbers, (5, 12), CPU)
    order = [2, 0, 3, 1]
    shuffled = normal([keys[i] for i in order], [numbers[i] for i in order], (5, 12), CPU)
    assert torch.equal(shuffled, drawn[order])
    assert torch.equal(normal([13], [3], (40, 12), CPU)[0, :5], drawn[3])
    assert torch.equal(normal([13], [3], (5, 13), CPU)[0, :, :12], drawn[3])
    many = normal([13] * 9000, range(9000), (5, 12), CPU)  # more than are made at a time
    assert torch.equal(many[3], drawn[3])


def test_numbers_are_standard_normal():
    # One key and many draws, one draw of many keys, and one large draw: their counters differ in different words.
    for keys, numbers, shape in (
        ([5] * 2000, range(2000), (5, 20)),
        (range(2000), [0] * 2000, (5, 20)),
        ([5], [0], (1000, 200)),
    ):
        drawn = normal(keys, numbers, shape, CPU).double().flatten().numpy()
        # A fair sample has a smaller p-value than 1e-4 once in 10,000 seeds; the seeds are fixed.
        assert stats.kstest(drawn, "norm").pvalue > 1e-4
        # Squared distance from what is expected in 1000 equally likely cells: chi-squared with 999 degrees of freedom.
        counts = np.bincount((special.ndtr(drawn) * 1000).astype(int), minlength=1000)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbouring_numbers_are_independent():
    drawn = normal([5] * 500, range(500), (6, 40), CPU).double().numpy()
    for axis in range(3):
        first, second = (np.delete(drawn, end, axis).ravel() for end in (0, -1))
        # The correlation of n independent pairs has the standard error n^-1/2, and so has that of their squares: five.
        for power in (1, 2):
            found = np.corrcoef(first**power, second**power)[0, 1]
            assert abs(found) < 5 * len(first) ** -0.5, (axis, power)
