"""The `python` backend: a function of the user's, behind the backend port."""

from trunkline.backends.callable.backend import PythonBackend, build

__all__ = ["PythonBackend", "build"]
