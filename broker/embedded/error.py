"""The one way in which the embedded database fails."""


class EmbeddedPostgresError(Exception):
    """PostgreSQL could not be found, made or started. The text says what to do about it."""
