"""The broker's own dialect, as docs/openapi.json describes it."""
