"""Seeds that depend on what they are for, and on nothing else."""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that is a function of `parts` only, not of order of calls, process, worker or machine.

    `derive_seed(seed, epoch, track_id)` is the usual form. Parts are encoded as a JSON list, so that `("a", "bc")` and
    `("ab", "c")` differ; Python's own `hash` is salted per process and cannot serve.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
