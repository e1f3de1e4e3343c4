"""Words of maps: the text as it was written, whatever the tokenizer made of it, and one score from those of pieces."""

import numpy as np
import pytest
from tiny import VOCABULARY, EmbeddingScore
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import saliency_bench as sb
from saliency_bench.errors import InputError

TEXTS = [
    "An unbelievably good film 👍🏽 — naïve, cafe\u0301!",
    "电影很好 看 it's unwatchable",
    "👩‍👩‍👧 loved it ❤️ n\u0303andu\u0301",
    "  two  spaces\tand a tab ",
]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # which strips accents
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL)


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=280, special_tokens=SPECIAL, initial_alphabet=alphabet
    )


def metaspace_unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=100, special_tokens=SPECIAL, unk_token="[UNK]"
    )


@pytest.fixture(scope="module", params=[word_piece, byte_level_bpe, metaspace_unigram])
def model(request):
    from transformers import PreTrainedTokenizerFast

    tokenizer, trainer = request.param()
    tokenizer.train_from_iterator(TEXTS, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]",
    )  # fmt: skip
    module = EmbeddingScore(lambda e: (e**3).sum((1, 2)))
    table = module.embedding.weight.data
    module.embedding = type(module.embedding).from_pretrained(
        table.repeat(1 + len(wrapped) // VOCABULARY, 1)
    )
    return sb.wrap_model(module, wrapped, embeddings="embedding", labels=("yes", "no"))


def explained(model, text):
    (found,) = sb.attribute(model, [text], "integrated_gradients", baseline="zero", n_steps=2)
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_the_words_are_the_text_as_it_was_written(model, text):
    words = explained(model, text).words()
    assert "".join("".join(word.text for word in words).split()) == "".join(text.split())
    for word in words:
        assert text[word.start : word.end] == word.text


def test_words_of_a_pair_are_of_their_own_text(model):
    pair = TEXTS[0], TEXTS[1]
    words = explained(model, pair).words()
    whole = "".join("".join(word.text for word in words).split())
    assert whole == "".join("".join(pair).split())


@pytest.mark.parametrize("text", TEXTS)
def test_the_sums_of_words_are_the_sum_of_the_tokens_that_are_in_words(model, text):
    found = explained(model, text)
    total = found.scores[[word >= 0 for word in found.encoded.words]].sum()
    # Sums of at most a hundred numbers in another order.
    assert sum(word.score for word in found.words()) == pytest.approx(total, rel=1e-12, abs=1e-12)


def test_each_reduction_is_what_it_is_called(model):
    found = explained(model, TEXTS[0])
    of_words = {name: found.words(name) for name in ("sum", "mean", "max", "signed_max")}
    assert max(np.bincount([word for word in found.encoded.words if word >= 0])) > 1
    for number in range(max(found.encoded.words) + 1):
        own = [
            score
            for score, word in zip(found.scores, found.encoded.words, strict=True)
            if word == number
        ]
        assert of_words["sum"][number].score == pytest.approx(sum(own), rel=1e-12)
        assert of_words["mean"][number].score == pytest.approx(sum(own) / len(own), rel=1e-12)
        assert of_words["max"][number].score == max(own)
        assert of_words["signed_max"][number].score == max(own, key=abs)


def test_an_unknown_reduction_is_refused_with_the_nearest(model):
    with pytest.raises(InputError, match="did you mean 'signed_max'"):
        explained(model, TEXTS[0]).words("signed-max")
