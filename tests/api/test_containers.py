"""Whatever holds the texts: a map of each in its order, or a refusal with the line to write."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FrameTokenizer, scored_by, tiny_bert
from torch.utils.data import DataLoader, IterableDataset

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models.tasks.items import items

datasets = pytest.importorskip("datasets")

TEXTS = ["a good film", "so bad", "dull", "it is a great one"]
PAIRS = [*pairwise(TEXTS)]
CLASSES = [0, 2, 1, 0]
FRAME = pd.DataFrame({"film": TEXTS, "kind": CLASSES})
TABLE = datasets.Dataset.from_pandas(FRAME)
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, CLASSES, strict=True)]
IDS = [[1, 7, 9, 2], [1, 8, 6, 2]]


@pytest.fixture(scope="module")
def model():
    """Of a tokenizer that makes a token of every word: t5 + 7 n for one of n letters."""
    return sb.wrap_model(tiny_bert(), FrameTokenizer(), labels=("a", "b", "c"))


class Pairs(FrameTokenizer):
    """The same of two texts."""

    def __call__(self, text, pair=None, **options):
        return super().__call__(text if pair is None else f"{text} {pair}", **options)


def ids_of(text):
    return (1, *(5 + 7 * len(word) % 45 for word in text.split()), 2)


def explained(model, inputs, **options):
    return sb.attribute(model, inputs, "vanilla", reduction="l2", **options)


class Stream(IterableDataset):
    """Texts without a length."""

    def __iter__(self):
        return iter(TEXTS)


HOLDERS = {
    "series": lambda: FRAME["film"],
    "index": lambda: pd.Index(TEXTS),
    "a series with an entry called columns": lambda: pd.Series(TEXTS, index=[*"abc", "columns"]),
    "array": lambda: np.array(TEXTS),
    "column of a dataset": lambda: TABLE["film"],
    "rows": lambda: [{"text": text} for text in TEXTS],
    "columns": lambda: {"text": TEXTS},
    "dataset": lambda: datasets.Dataset.from_list(ROWS),
    "stream of a dataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "single": lambda: DataLoader(TEXTS, batch_size=None),
    "stream": lambda: DataLoader(Stream(), batch_size=3),
    "lists": lambda: DataLoader(TEXTS, batch_size=2, collate_fn=list),
    "tuples": lambda: DataLoader(TEXTS, batch_size=2, collate_fn=tuple),
    "lists of one's own": lambda: DataLoader(
        TEXTS, batch_size=2, collate_fn=lambda batch: [*batch]
    ),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_every_holder_of_texts_gives_a_map_of_each(model, holder):
    found = explained(model, HOLDERS[holder]())
    assert [one.token_ids for one in found] == [ids_of(text) for text in TEXTS]
    assert [one.encoded.text for one in found] == TEXTS


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("rows", [TEXTS, ROWS, datasets.Dataset.from_list(ROWS)])
def test_a_loader_gives_a_map_of_each_text_whatever_its_batches(model, rows, size):
    found = explained(model, DataLoader(rows, batch_size=size))
    assert [one.token_ids for one in found] == [ids_of(text) for text in TEXTS]
    assert [one.encoded.gold for one in found] == ([None] * 4 if rows is TEXTS else CLASSES)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_loader_of_pairs_keeps_them(size):
    model = sb.wrap_model(tiny_bert(), Pairs(), labels=("a", "b", "c"))
    found = explained(model, DataLoader(PAIRS, batch_size=size))
    assert [(one.encoded.text, one.encoded.text_pair) for one in found] == PAIRS


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_loader_of_lists_of_ids_does_not_turn_them_over(model, size):
    found = explained(model, DataLoader([{"input_ids": ids} for ids in IDS], batch_size=size))
    assert [list(one.token_ids) for one in found] == IDS


LABELLED = {
    "a loader": lambda: DataLoader([*zip(TEXTS, CLASSES, strict=True)], batch_size=2),
    "its batches": lambda: [*DataLoader([*zip(TEXTS, CLASSES, strict=True)], batch_size=3)],
    "tensors": lambda: [
        (text, torch.tensor(label)) for text, label in zip(TEXTS, CLASSES, strict=True)
    ],
}


@pytest.mark.parametrize("holder", LABELLED)
def test_a_text_may_bring_its_class(model, holder):
    found = explained(model, LABELLED[holder](), target="gold")
    assert [one.encoded.text for one in found] == TEXTS
    assert [one.target for one in found] == CLASSES


@pytest.mark.parametrize(
    "hold", [list, np.array, torch.tensor, lambda labels: pd.Series(labels, index=[3, 2, 1, 0])]
)
def test_classes_are_those_of_the_texts_in_their_order(model, hold):
    found = explained(model, FRAME["film"], labels=hold(CLASSES), target="gold")
    assert [one.target for one in found] == CLASSES


class Article(torch.utils.data.Dataset):
    """The article's: the inputs of the model, and the tokens to show."""

    def __init__(self, form):
        self.form = form

    def __len__(self):
        return len(IDS)

    def __getitem__(self, index):
        ids = self.form(IDS[index])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [*f"{index}xyz"]


@pytest.mark.parametrize("form", [torch.tensor, lambda ids: torch.tensor([ids])])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_the_articles_own_dataset_is_explained_with_its_tokens(form, size):
    bare = scored_by(lambda e: (e**2).sum((1, 2)))  # a model without a tokenizer
    data = Article(form)
    found = explained(bare, data if size is None else DataLoader(data, batch_size=size))
    assert [list(one.token_ids) for one in found] == IDS
    assert [one.tokens for one in found] == [tuple("0xyz"), tuple("1xyz")]
    table = bare.module.embedding.weight.detach()
    for one, ids in zip(found, IDS, strict=True):  # the gradient of Σe² is 2e
        np.testing.assert_allclose(one.scores, 2 * table[ids].norm(dim=-1), rtol=1e-12)


def test_tokens_that_are_not_those_of_the_ids_are_refused():
    bare = scored_by(lambda e: (e**2).sum((1, 2)))
    with pytest.raises(InputError, match=r"inputs\[0\]: 2 tokens stand beside 4 token ids"):
        explained(bare, [({"input_ids": IDS[0]}, ["a", "b"])])


REFUSED = {
    "frame": (lambda: FRAME, r"a table of the columns film, kind.* inputs\['film'\]"),
    "dataset": (lambda: TABLE, r"a table of the columns film, kind.* inputs\['film'\]"),
    "splits": (lambda: datasets.DatasetDict(test=TABLE), r"the splits test.* inputs\['test'\]"),
    "loader of rows": (lambda: DataLoader(TABLE, batch_size=2), r"\[row\['film'\] for row in"),
    "rows": (lambda: [{"sentence": "a", "idx": 3}], r"\[row\['sentence'\] for row in inputs\]"),
    "columns of one's own": (
        lambda: DataLoader(
            [*zip(TEXTS, CLASSES, strict=True)],
            batch_size=2,
            collate_fn=lambda batch: [*zip(*batch, strict=True)],
        ),
        "batch 0 of inputs is a list of 2 tuples.*give loader.dataset",
    ),
    "collated lists of ids": (
        lambda: [*DataLoader([{"input_ids": ids} for ids in IDS], batch_size=2)],
        "4 arrays of one length.*give the DataLoader itself",
    ),
    "batches of texts": (lambda: [TEXTS[:3]], r"\[text for batch in inputs for text in batch\]"),
    "rows of an array": (lambda: np.array([TEXTS[:2], TEXTS[2:]]), "text for batch in inputs"),
    "a gap": (lambda: pd.Series(["a", float("nan")]), r"inputs\[1\] is float \(nan\)"),
    "unknown beside ids": (lambda: [({"input_ids": IDS[0]}, object())], "give the mapping"),
}  # fmt: skip


@pytest.mark.parametrize("holder", REFUSED)
def test_what_may_be_read_in_several_ways_is_refused_with_the_line_to_write(model, holder):
    make, said = REFUSED[holder]
    with pytest.raises(InputError, match=said):
        explained(model, make())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"input_ids": [1, 7.5, 2]}, "input_ids are float32: expected whole numbers"),
        ({"input_ids": torch.tensor([0.0, 7.0, 3.0])}, "input_ids are float32"),
        ({"input_ids": [True, False]}, "input_ids are bool"),
        ({"input_ids": ["good"]}, "expected whole numbers, got 'good'"),
        ({"input_ids": [1, 7], "token_type_ids": [0.5, 1]}, "token_type_ids are float32"),
        ({"input_ids": [1, 7, 2], "attention_mask": [1, 2, 1]}, "attention_mask holds 2"),
        ({"input_ids": [1, 7, 2], "attention_mask": [1, -1, 1]}, "attention_mask holds -1"),
        ({"input_ids": [1, 7, 2], "attention_mask": [1, 0.5, 1]}, "attention_mask holds 0.5"),
        (torch.tensor([[0.0, 7.5, 3.0]]), "input_ids are float32"),
    ],
)
def test_ids_are_whole_numbers_and_masks_are_zero_or_one(model, given, said):
    with pytest.raises(InputError, match=rf"inputs\[0\].*{said}"):
        explained(model, given if isinstance(given, torch.Tensor) else [given])


#: Rows with every field of a text, one with gaps, and a field that nothing reads.
WHOLE = [
    {"text": "a good film", "text_pair": None, "label": 0, "segments": [["end", "film"]], "hypothesis": 1},
    {"text": "so bad", "text_pair": "it is dull", "label": 2, "segments": None, "hypothesis": 2},
]  # fmt: skip
TABLES = {
    "rows": lambda: WHOLE,
    "frame": lambda: pd.DataFrame(WHOLE),
    "rows with NA": lambda: [{**WHOLE[0], "text_pair": pd.NA}, WHOLE[1]],
    "rows with NaN": lambda: [{**WHOLE[0], "text_pair": float("nan")}, WHOLE[1]],
    "frame with gaps of another kind": lambda: pd.DataFrame(WHOLE).convert_dtypes(),
    "frame with NaN": lambda: pd.DataFrame(WHOLE).replace({"text_pair": {None: float("nan")}}),
    "dataset": lambda: datasets.Dataset.from_list(WHOLE),
}


@pytest.mark.parametrize("table", TABLES)
def test_rows_frames_and_datasets_keep_the_same_fields_and_name_the_others_once(table):
    model = sb.wrap_model(tiny_bert(), Pairs(), labels=("a", "b", "c"))
    with pytest.warns(UserWarning, match="not used: hypothesis.") as caught:
        found = explained(model, TABLES[table](), target="gold")
    assert [(one.encoded.text, one.encoded.text_pair) for one in found] == [
        ("a good film", None),
        ("so bad", "it is dull"),
    ]
    assert [one.target for one in found] == [0, 2]
    assert [one.encoded.parts for one in found] == [(("end", 0, 7, 11),), ()]
    assert sum("not used" in str(one.message) for one in caught) == 1


@pytest.mark.parametrize(
    "hold",
    [
        list,
        pd.DataFrame,
        datasets.Dataset.from_list,
        lambda rows: datasets.Dataset.from_list(rows).data.table,
    ],
)
def test_the_rows_of_a_table_keep_their_options(hold):
    rows = [{"text": "a film", "options": ["good", "bad"], "label": label} for label in (0, 1)]
    assert items(hold(rows)) == rows


def test_a_class_in_a_column_with_gaps_is_a_whole_number(model):
    frame = pd.DataFrame({"text": TEXTS, "label": [0, None, 2, 1]})
    assert [one.encoded.gold for one in explained(model, frame)] == [0, None, 2, 1]


def test_a_text_that_is_missing_is_named(model):
    with pytest.raises(InputError, match=r"inputs\[1\]: text=None: expected a text"):
        explained(model, pd.DataFrame({"text": ["a", None]}))


@pytest.mark.parametrize("form", [bool, int, float])
def test_a_mask_may_be_of_any_type(model, form):
    mask = [form(one) for one in (1, 1, 0)]
    (found,) = explained(model, [{"input_ids": [1, 7, 2], "attention_mask": mask}])
    assert list(found.token_ids) == [1, 7]


@pytest.mark.parametrize("text", ["a \ud83d b", ("fine", "a \ude00")])
def test_half_a_character_in_a_text_is_refused(text):
    model = sb.wrap_model(tiny_bert(), Pairs(), labels=("a", "b", "c"))
    with pytest.raises(InputError, match=r"inputs\[1\].*lone surrogate U\+D") as caught:
        explained(model, ["fine", text])
    str(caught.value).encode()  # can be printed


def test_half_a_character_in_a_baseline_is_refused(model):
    with pytest.raises(InputError, match=r"baseline=.*lone surrogate U\+D83D") as caught:
        sb.attribute(model, TEXTS[:1], "integrated_gradients", baseline="text:a \ud83d")
    str(caught.value).encode()
