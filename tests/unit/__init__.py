"""Tests that need no broker. They mirror the package: `tests/unit/<room>/test_<module>.py`, single modules at the top.

Also at the top is what crosses rooms:

- `test_hot_path`: how many function calls a message costs, from the fetch to the end of its handler
- `test_interleavings`: lanes, workers, buffers and commits, whatever the event loop does first
- `test_turns`: whoever shares the event loop with consumers gets turns, whatever the handlers do
- `test_quiet`: after any pause, longer than every timer, all is as before
- `test_timers`: docs/timers.md names every timer above 5 seconds, with a test that crosses it
- `test_layering`: rooms stand on floors and import from below; nothing imports in circles
- `test_exported_members`: the public names, and what importing the package must not load
- `test_compose`: docker-compose.yml
- `test_benchmarks`: what benchmarks count and compute, and which build they run
"""
