"""Names to seeds: every random draw belongs to a name, so that adding one never moves another."""

import hashlib
from collections.abc import Sequence


def seed_of(*names: str | int) -> int:
    """A 63-bit seed from a sequence of names; ("a", "b") and ("ab",) differ."""
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def token_hash(token_ids: Sequence[int]) -> str:
    """A name for a tokenised text that does not depend on its place in a batch or a file."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:16]
