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


PLAIN = ["a good film but unwatchable", "it was loved and the tab spaces"]


@pytest.mark.parametrize("given", [PLAIN[0], tuple(PLAIN)], ids=["single", "pair"])
@pytest.mark.parametrize("typed", [True, False], ids=["token types", "separators"])
def test_ids_have_the_words_and_segments_of_their_text(model, given, typed):
    """Of a text in which nothing is lost: single spaces and no punctuation."""
    ids = model.tokenizer(*([given] if isinstance(given, str) else given))
    item = {"input_ids": ids["input_ids"]}
    if typed:
        item["token_type_ids"] = [
            kind or 0 for kind in ids.sequence_ids()
        ]  # what a BERT's tokenizer makes
    found, expected = explained(model, item), explained(model, given)
    assert found.words() == expected.words()
    assert found.segments() == expected.segments()
    assert found.encoded.words == expected.encoded.words
    assert found.encoded.segments == expected.encoded.segments


def test_ids_of_any_text_lose_no_token(model):
    for text in TEXTS:
        found = explained(model, {"input_ids": model.tokenizer(text)["input_ids"]})
        expected = explained(model, text)
        total = found.scores[[word >= 0 for word in found.encoded.words]].sum()
        assert sum(word.score for word in found.words()) == pytest.approx(total, rel=1e-9)
        assert found.encoded.special == expected.encoded.special
        for word in found.words():
            assert found.encoded.text[word.start : word.end] == word.text


def whole_text_tokenizer(kind):
    """A tokenizer that takes a text for one word, as those of Llama and Gemma do in transformers 5."""
    import transformers

    vocabulary = {name: place for place, name in enumerate(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<s>", "</s>"]
    )}  # fmt: skip
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz▁'.,", *"".join(TEXTS)})
    for piece in (*letters, *(f"<0x{byte:02X}>" for byte in range(256)), "▁f", "▁g", "oo"):
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", "f"), ("▁", "g"), ("o", "o")]
    return getattr(transformers, kind)(vocab=vocabulary, merges=merges)


@pytest.fixture(scope="module", params=["LlamaTokenizer", "GemmaTokenizer"])
def unparted(request):
    tokenizer = whole_text_tokenizer(request.param)
    module = EmbeddingScore(lambda e: (e**3).sum((1, 2)))
    table = module.embedding.weight.data
    module.embedding = type(module.embedding).from_pretrained(
        table.repeat(1 + len(tokenizer) // VOCABULARY, 1)
    )
    return sb.wrap_model(module, tokenizer, embeddings="embedding", labels=("yes", "no"))


@pytest.mark.parametrize("text", [*PLAIN, *TEXTS])
def test_white_space_parts_words_where_a_tokenizer_does_not(unparted, text):
    assert len({*unparted.tokenizer(text).word_ids()} - {None}) == 1  # else this tests nothing
    assert [word.text for word in explained(unparted, text).words() if word.text.strip()] == (
        text.split()
    )


def test_ids_of_such_a_tokenizer_have_the_words_too(unparted):
    ids = {"input_ids": unparted.tokenizer(PLAIN[0])["input_ids"]}
    found, expected = explained(unparted, ids), explained(unparted, PLAIN[0])
    assert [word.text for word in found.words()] == PLAIN[0].split()
    assert [word.score for word in found.words()] == [word.score for word in expected.words()]


def test_removing_words_is_removing_some_of_the_text(unparted):
    maps = [explained(unparted, text) for text in PLAIN]
    table = sb.evaluate(unparted, maps, ["srg"], granularity="word", removal="zero")
    assert (table["value"] != 0).all()
