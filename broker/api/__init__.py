"""The HTTP edge: dialects over the verbs of `broker.core`. The only room that knows Starlette."""
