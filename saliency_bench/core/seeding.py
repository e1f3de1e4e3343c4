"""Seeds made from names: every random draw has a name, so that a new draw never changes another."""

import hashlib
from collections.abc import Sequence


def seed_of(*names: str | int) -> int:
    """Returns a 63-bit seed for a sequence of names; ("a", "b") and ("ab",) differ."""
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def token_hash(token_ids: Sequence[int]) -> str:
    """Returns a name for a tokenised text that does not depend on its place in a batch or a file."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:16]
