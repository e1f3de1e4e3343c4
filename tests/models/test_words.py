"""Words of maps: the text as it was written, whatever the tokenizer made of it, and one score from those of pieces."""

import json

import numpy as np
import pytest
from tiny import VOCABULARY, EmbeddingScore, FrameTokenizer, scored_by
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
from saliency_bench.core.errors import InputError
from saliency_bench.models.tasks.pieces import words_in

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


# Words that a byte-level tokenizer, or one of Python, parts otherwise


def wrapped(tokenizer):
    module = EmbeddingScore(lambda e: (e**3).sum((1, 2)))
    table = module.embedding.weight.data
    module.embedding = type(module.embedding).from_pretrained(
        table.repeat(1 + len(tokenizer) // VOCABULARY, 1)
    )
    return sb.wrap_model(module, tokenizer, embeddings="embedding", labels=("yes", "no"))


def roc_bert(folder):
    """WordPiece in Python."""
    import transformers

    words = [*SPECIAL, "play", "##ing", "##ed", "film", "good"]
    (folder / "vocab.txt").write_text("\n".join(words))
    for name in ("shapes.json", "sounds.json"):
        (folder / name).write_text(json.dumps(dict.fromkeys(words, 0)))
    paths = [folder / name for name in ("vocab.txt", "shapes.json", "sounds.json")]
    return transformers.RoCBertTokenizer(*map(str, paths))


PIECES = ["<unk>", "fi@@", "lm", "go@@", "od", *(f"{one}@@" for one in "filmgods"), *"filmgods"]
MERGES = "#version: 0.2\nf i\nl m</w>\ng o\no d</w>\n"


def ctrl(folder):
    """BPE in Python that marks pieces which go on."""
    import transformers

    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(PIECES))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text(MERGES)
    return transformers.CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def first_gpt(folder):
    """BPE that marks pieces which end a word."""
    import transformers

    pieces = ["<unk>", *(f"{one}</w>" for one in "filmgods"), *"filmgods"]
    pieces += ["fi", "lm</w>", "go", "od</w>"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    merges = [("f", "i"), ("l", "m</w>"), ("g", "o"), ("o", "d</w>")]
    return transformers.OpenAIGPTTokenizer(vocab=vocabulary, merges=merges)


def byt5(folder):
    """Bytes."""
    import transformers

    return transformers.ByT5Tokenizer()


def whole_words(folder):
    """A tokenizer in Python that marks nothing: its tokens are words of the text."""
    from transformers import BatchEncoding

    class Split:
        is_fast = False
        words = ("the", "good", "film", "played")
        pad_token_id = None
        all_special_ids = ()

        def __len__(self):
            return len(self.words)

        def __call__(self, text, **_):
            ids = [self.words.index(word) for word in text.lower().split()]
            return BatchEncoding({"input_ids": ids, "special_tokens_mask": [0] * len(ids)})

        def convert_ids_to_tokens(self, ids):
            return [self.words[one] for one in ids]

    return Split()


WRITTEN = {
    roc_bert: ["Playing  góod film plaYed", "good playing"],
    ctrl: ["film good", "good"],
    first_gpt: ["film good", "good good film"],
    byt5: ["A naïve film", "cafe\u0301s  हिन्दी film", " the film\n"],
    whole_words: ["The good film", "good"],
}


@pytest.mark.parametrize("make", WRITTEN)
def test_words_of_any_tokenizer_are_those_that_white_space_parts(make, tmp_path):
    model = wrapped(make(tmp_path))
    for text in WRITTEN[make]:
        found = explained(model, text)
        words = found.words()
        assert [word.text for word in words] == text.split()
        assert [text[word.start : word.end] for word in words] == text.split()
        assert len(found.tokens) > len(words) or make is whole_words
        # Sums of at most thirty numbers in another order.
        inner = found.scores[list(found.attributable)].sum()
        assert sum(word.score for word in words) == pytest.approx(inner, rel=1e-12, abs=1e-12)
        if make is not whole_words:
            ids = explained(model, {"input_ids": list(found.token_ids)})
            assert ids.encoded.words == found.encoded.words


@pytest.mark.parametrize("make", [roc_bert, byt5])
def test_a_word_of_a_pair_says_which_text_it_is_in(make, tmp_path):
    pair = ("good film", "played good film")
    words = explained(wrapped(make(tmp_path)), pair).words()
    assert [(word.text, word.segment) for word in words] == [
        *((word, 0) for word in pair[0].split()),
        *((word, 1) for word in pair[1].split()),
    ]
    for word in words:
        assert pair[word.segment][word.start : word.end] == word.text


def test_an_unknown_word_is_what_stands_between_its_neighbours(tmp_path):
    text = "good zapata film unseen strange good"
    words = explained(wrapped(roc_bert(tmp_path)), text).words()
    assert [word.text for word in words[:3]] == ["good", "zapata", "film"]
    assert [word.start for word in words[3:5]] == [-1, -1]  # of two it is not known
    assert text[words[5].start : words[5].end] == "good"


SPACED = [
    "two  spaces\tand a tab  ",
    "cafe\u0301s n\u0303andu\u0301",
    "हिन्दी a\u200db",
    " it\n\nends\n",
]


@pytest.mark.parametrize("text", SPACED)
def test_white_space_and_accents_are_no_words(text):
    tokenizer, trainer = byte_level_bpe()
    tokenizer.train_from_iterator(TEXTS, trainer)
    from transformers import PreTrainedTokenizerFast

    model = wrapped(PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]"))
    parts = model.tokenizer(text).word_ids()
    assert len({*parts}) > len(text.split())  # else this tests nothing
    for given in (text, {"input_ids": model.tokenizer(text)["input_ids"]}):
        words = explained(model, given).words()
        assert [word.text for word in words] == text.split()


def test_what_is_between_letters_parts_them_as_the_tokenizer_says():
    offsets = [(0, 2), (2, 4), (5, 6), (6, 7)]
    # Of "it's 電影": an apostrophe is no letter, and ideographs stand next to each other.
    assert words_in(offsets, [0] * 4, ("it's 電影", ""), [0, 1, 2, 3]) == (0, 1, 2, 3)
    assert words_in(offsets, [0] * 4, ("it's 電影", ""), [0, 0, 1, 1]) == (0, 0, 1, 1)


def test_words_are_refused_where_nothing_says_what_they_are():
    ids = {"input_ids": [5, 9, 7]}
    model = scored_by(lambda e: (e**3).sum((1, 2)))  # without a tokenizer
    framed = scored_by(lambda e: (e**3).sum((1, 2)), tokenizer=FrameTokenizer())
    for one, given in ((model, ids), (framed, ids), (framed, "a film")):
        found = explained(one, given)
        assert len(found.words()) == sum(found.attributable)
        with pytest.raises(InputError, match=r"granularity=word.*Use granularity=token"):
            sb.evaluate(one, [found], ["srg"], granularity="word", removal="zero")
