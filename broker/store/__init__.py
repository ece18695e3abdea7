"""The only room that knows PostgreSQL.

`Store` (verbs.py) has one method a verb, `queries` one constant a statement;
`shapes` is what goes in and comes out.
"""

from broker.store.lanes import Lane, Lanes
from broker.store.migrations import SchemaMismatch, check_schema, migrate, pending
from broker.store.pool import ConnectionLost, Retryable, TooSlow, open_pool
from broker.store.searching import Condition, Filters, Found, Search, Sort
from broker.store.shapes import (
    Batch,
    Claim,
    Filtered,
    Granted,
    ListFilters,
    NewVariables,
    Results,
    Scan,
    Swept,
    Wake,
)
from broker.store.verbs import Store
from broker.store.wakeups import Wakeups

__all__ = [
    "Batch",
    "Claim",
    "Condition",
    "ConnectionLost",
    "Filtered",
    "Filters",
    "Found",
    "Granted",
    "Lane",
    "Lanes",
    "ListFilters",
    "NewVariables",
    "Results",
    "Retryable",
    "Scan",
    "SchemaMismatch",
    "Search",
    "Sort",
    "Store",
    "Swept",
    "TooSlow",
    "Wake",
    "Wakeups",
    "check_schema",
    "migrate",
    "open_pool",
    "pending",
]
