"""Pure functions: random generators that follow from what they are for, and from nothing else."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(*parts: str | int | None) -> np.random.Generator:
    """A generator seeded by a hash of what it is for.

    Equal parts give equal numbers, on every machine and whatever was drawn before; parts that
    differ anywhere (also ``1`` and ``"1"``) give independent streams.

    Args:
        parts: What the numbers are for, such as run seed, task, attempt, policy version and arm.

    Raises:
        TypeError: If a part is neither text, whole number nor None.
    """
    plain: list[str | int | None] = []
    for part in parts:
        if part is None or isinstance(part, str):
            plain.append(part)
        elif isinstance(part, int | np.integer):
            plain.append(int(part))
        else:
            raise TypeError(f"seed part {part!r} is neither text, whole number nor None")
    digest = hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
