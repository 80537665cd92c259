"""Agents of other frameworks as agents of this one. Each module needs its framework, and is imported by the agent's author."""
