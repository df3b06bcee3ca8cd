"""The service: search over HTTP."""
