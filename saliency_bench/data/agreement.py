"""Subject-verb agreement: beginnings of sentences that "is" or "are" must follow, with the noun that decides it.

The task is that of Linzen et al. 2016; Arras et al. 2025 (arXiv 2502.15886) use it as a ground truth for attributions.
Between the subject and the verb stand attractors: nouns of the other number. The words and templates are our own.
"""

import random
from itertools import product

from saliency_bench.core import ranges
from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.seeding import seed_of
from saliency_bench.data import dataset
from saliency_bench.data.example import Example
from saliency_bench.data.records import content_id

SINGULAR, PLURAL, BOTH = "singular", "plural", "both"
#: The verb that follows, as most vocabularies have it: with the space before it.
VERBS = {SINGULAR: " is", PLURAL: " are"}


#: Subjects, and nouns that stand between them and the verb; each has a plural in -s, and no noun is in both.
SUBJECTS = (
    "author", "captain", "doctor", "driver", "engineer", "farmer", "guard", "lawyer", "manager", "neighbor", "nurse", "painter",
    "pilot", "player", "poet", "student", "teacher", "writer", "key", "letter", "picture", "report", "song", "story", "table",
)  # fmt: skip
ATTRACTORS = (
    "bridge", "building", "cabinet", "car", "chair", "door", "field", "garden", "hotel", "house", "lamp", "museum", "office",
    "park", "river", "road", "school", "ship", "shop", "station", "street", "tower", "train", "tree", "wall", "window",
)  # fmt: skip
PREPOSITIONS = ("near", "behind", "beside", "in front of", "next to", "across from")
OPENINGS = (
    "The", "Today the", "In the end the", "As far as I know, the", "Of course the", "I think that the",
)  # fmt: skip


@dataset
def load(*, n_items: int, number: str, attractors: list[int], seed: int) -> list[Example]:
    """Returns different beginnings of sentences, in equal shares for each number of attractors.

    Each ends before the verb. The subject is `relevant`, since its number is that of the verb: it explains the contrast
    " is" against " are" for singular subjects, and the reverse for plural ones.

    Args:
        n_items: the number of examples.
        number: singular, plural, or both in turn.
        attractors: numbers of nouns between subject and verb, 0 to 3, which take turns.
        seed: the seed of the drawn words.

    Raises:
        InputError: there is no such grammatical number, `attractors` are not 0 to 3, or there are fewer different examples.
    """
    one_of("data.number", number, (SINGULAR, PLURAL, BOTH))
    if not attractors:
        raise InputError("data.attractors is an empty list. Give at least one value.")
    ranges.check(attractors, "data.attractors")
    numbers = (SINGULAR, PLURAL) if number == BOTH else (number,)
    kinds = [*product(sorted({*attractors}), numbers)]
    stream = random.Random(seed_of("agreement", seed))
    examples: dict[str, Example] = {}
    for index in range(100 * n_items):
        if len(examples) == n_items:
            return [*examples.values()]
        # The kinds take turns over the examples so far, so that a repeated text changes no share.
        n_between, subject_number = kinds[len(examples) % len(kinds)]
        example = _item(n_between, subject_number, stream, f"agreement item {index + 1}")
        examples.setdefault(example.text, example)
    raise InputError(
        f"data.n_items={n_items}: with attractors={attractors} and number={number} there are only {len(examples)} different items"
    )


def _item(n_between: int, number: str, stream: random.Random, source: str) -> Example:
    subject = _written(stream.choice(SUBJECTS), number)
    other = PLURAL if number == SINGULAR else SINGULAR
    before = f"{stream.choice(OPENINGS)} "
    nouns = stream.sample(ATTRACTORS, n_between)
    between = "".join(
        f" {stream.choice(PREPOSITIONS)} the {_written(noun, other)}" for noun in nouns
    )
    text = f"{before}{subject}{between}"
    return Example(
        content_id(text),
        text,
        label=VERBS[number],
        source=source,
        relevant=((0, len(before), len(before) + len(subject)),),
        extra={"number": number, "attractors": float(n_between)},
    )


def _written(noun: str, number: str) -> str:
    if number == SINGULAR:
        return noun
    return f"{noun[:-1]}ies" if noun == "story" else f"{noun}s"
