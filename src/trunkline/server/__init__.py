"""HTTP: surfaces, middleware, streaming. The only layer that knows ASGI and Starlette."""
