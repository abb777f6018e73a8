"""A service as a new user writes one: routers, a factory, a session dependency, handlers of each kind. Nothing of it is
made for tests, and mypy (strict) and pyright find nothing in it (test_typing.py).
"""
