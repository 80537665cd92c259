"""What happens to every request: identity, log line, origin check, authentication. Pure ASGI, each one thing."""
