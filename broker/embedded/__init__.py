"""A PostgreSQL of our own, with nothing to install: for development, demonstrations and tests.

Never for production: it trusts whoever reaches its socket, and nobody backs it
up. It does not listen on the network; what guards it is the socket's
directory, which only the user that it runs as may enter.

    DIR/cluster/        PostgreSQL's data
    DIR/run/            its socket, unless the path would be too long for one
    DIR/postgres.log    what it said
    DIR/owner.lock      held by the process that started it
    DIR/server.lock     held by PostgreSQL, through a descriptor that it inherits and never closes

The two locks make a SIGKILL of the parent harmless. The kernel drops them with
their holders, so a free owner.lock beside a held server.lock is a server left
over, to be stopped before the next is started; and no process id, which a
container soon gives to somebody else, is taken at its word.
"""

from broker.embedded.error import EmbeddedPostgresError
from broker.embedded.server import DATABASE, EmbeddedPostgres

__all__ = ["DATABASE", "EmbeddedPostgres", "EmbeddedPostgresError"]
