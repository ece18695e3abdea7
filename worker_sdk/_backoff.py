"""How long to leave a broker alone that could not answer.

Full jitter: the wait is drawn evenly from zero up to a bound that doubles. When
a broker comes back, a thousand workers return spread over seconds instead of in
one beat. The bound stays small because a worker must be working again within
seconds of the broker's return, by itself.
"""

from __future__ import annotations

import random

from worker_sdk._errors import FetchlockError

BASE_S = 0.1
CAP_S = 3.0


def full_jitter_s(failures: int, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> float:
    """A wait in seconds after this many failures in a row (1 for the first)."""
    # The exponent is bounded too: after hours of outage 2**failures would no longer be a float.
    return random.uniform(0.0, min(cap_s, base_s * 2.0 ** min(failures, 32)))


def pause_s(failures: int, error: FetchlockError) -> float:
    """The wait before the next try: what the broker asked for, and then jitter.

    The jitter comes on top, or everyone who was told "in one second" would return together.
    """
    return (error.retry_after_s or 0.0) + full_jitter_s(failures)
