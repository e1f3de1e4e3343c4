"""A map of invented scores, and what a page says to its reader."""

from html.parser import HTMLParser

import numpy as np

from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.text import Encoded


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.titles = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.titles += [value for key, value in attrs if key == "title"]

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def attribution(text="good film", scores=(0.0, 0.5, -0.25, 0.0), **setting):
    encoded = Encoded(
        example_id="e",
        input_ids=(1, 2, 3, 4),
        token_type_ids=None,
        special=(True, False, False, True),
        tokens=("[CLS]", "good", "film", "[SEP]"),
        offsets=((-1, -1), (0, 4), (5, 9), (-1, -1)),
        segments=(-1, 0, 0, -1),
        words=(-1, 0, 1, -1),
        text=text,
        text_pair=None,
        gold=None,
    )
    facts = {} if "name" in setting else {"facts": {"entry": "Vanilla gradient"}}
    given = {"name": "vanilla", "backend": "native", "reduction": "dot"} | facts | setting
    return AttributionMap(encoded, given, np.array(scores), 1, "positive", 0.875)
