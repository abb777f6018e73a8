"""For tests of services: an app with a broker of its own, and what its handlers made of each message.

`TestKit` for sync tests, `AsyncTestKit` for async ones; docs/testing.md shows both. Imported only where it is used. A
`Bench` is what the app runs with meanwhile. A watch looks on at one handler, and notes what becomes of each message. An
injection is a failure that the test wants.
"""

from ..exceptions import ConfigurationError
from .expectations import UnexpectedFailuresError
from .records import Deferred, Handled, Published

try:
    from .async_kit import AsyncTestKit
    from .kit import TestKit
except (ImportError, RuntimeError) as error:
    raise ConfigurationError(f"fastapi_athomic.testing needs fastapi-athomic[testing]: {error}") from error

__all__ = [
    "AsyncTestKit",
    "Deferred",
    "Handled",
    "Published",
    "TestKit",
    "UnexpectedFailuresError",
]
