"""Connections to PostgreSQL, and its errors in the broker's words.

What the pool sets at connect is part of the statements' correctness: their
plans must stay on the indexes whatever the statistics say (a plan is cached
when the tables are empty and used when they hold millions), and times in
answers are UTC.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from broker.errors import Invalid, Unavailable

Pool = asyncpg.Pool
Connection = asyncpg.Connection

# The client gives up a little after the server should have: only a dead
# network gets that far.
_NETWORK_MARGIN_S = 5.0


class Retryable(Exception):
    """The transaction was rolled back through no fault of its own; the same statement may pass."""


class ConnectionLost(Unavailable):
    """The connection ended under the statement: it may have been committed, or not."""


class TooSlow(Unavailable):
    """The statement took longer than any may take; tried again it may well do so again."""


@contextmanager
def map_exceptions() -> Iterator[None]:
    """Turn what asyncpg raises into the broker's errors, at the one boundary.

    1. The database asks to try again (deadlock, serialization failure).
    2. A value it cannot take: the caller's mistake that validation let pass.
    3. The connection ended, whoever ended it.
    4. The statement took too long.
    5. It is away, starting, stopping, out of connections, or does not answer.
    Anything else is a mistake of ours and passes as it is.
    """
    try:
        yield
    except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
        raise Retryable(str(error)) from error
    except (asyncpg.DataError, asyncpg.CharacterNotInRepertoireError) as error:
        raise Invalid(f"the database refused a value: {error}") from error
    except (
        asyncpg.PostgresConnectionError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        # What asyncpg makes of a connection that PostgreSQL ended a moment ago.
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        ConnectionError,
    ) as error:
        raise ConnectionLost(f"the database is not available: {type(error).__name__}") from error
    except asyncpg.QueryCanceledError as error:
        raise TooSlow(f"the database is not available: {type(error).__name__}") from error
    except (
        asyncpg.OperatorInterventionError,
        asyncpg.InsufficientResourcesError,
        # Also what a database says that does not accept connections for now.
        asyncpg.ObjectNotInPrerequisiteStateError,
        asyncpg.InvalidCatalogNameError,
        # Met during a failover, on the server that is no longer, or not yet, the one to write to.
        asyncpg.ReadOnlySQLTransactionError,
        OSError,
        TimeoutError,
    ) as error:
        raise Unavailable(f"the database is not available: {type(error).__name__}") from error


async def open_pool(database_url: str, *, size: int, statement_timeout_ms: int) -> Pool:
    """Open `size` connections at most; the first must succeed.

    Raises:
        Unavailable: The database cannot be reached.
    """
    with map_exceptions():
        pool = await asyncpg.create_pool(
            database_url,
            # None is kept open for its own sake: while the database is away, the pool would log
            # a traceback for each try to get it back.
            min_size=0,
            max_size=size,
            # Both would make asyncpg prepare hot statements again and again.
            max_cached_statement_lifetime=0,
            max_queries=sys.maxsize,
            max_inactive_connection_lifetime=0,
            command_timeout=statement_timeout_ms / 1000 + _NETWORK_MARGIN_S,
            timeout=_NETWORK_MARGIN_S,
            # No session state is ever left behind, so the round trip that clears it is saved.
            reset=_keep_session,
            server_settings={
                "application_name": "fetchlock",
                "TimeZone": "UTC",
                "jit": "off",
                # Planning one of these statements anew takes longer than running it for one task,
                # and only a plan that does not depend on the values can be tested.
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",
                # PostgreSQL 18 crashes where a statement that waited for a row lock prunes
                # partitions as it runs: docs/decisions/2026-11-22-no-partition-pruning.md.
                "enable_partition_pruning": "off",
                "statement_timeout": str(statement_timeout_ms),
                "idle_in_transaction_session_timeout": str(statement_timeout_ms),
            },
        )
        async with pool.acquire():
            return pool


async def _keep_session(connection: Any) -> None:
    """Leave the session as it is: see `open_pool`."""
