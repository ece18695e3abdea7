"""Fetchlock's broker: tasks in PostgreSQL, handed to workers over plain HTTP."""
