"""The service: search over HTTP, and its page."""
