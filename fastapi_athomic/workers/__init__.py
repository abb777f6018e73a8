"""Processes that only consume: each runs the app's lifespan, one more supervises them and answers for all.

The supervisor imports nothing of the app. It starts each process (`process`), talks to it over a socket pair
(`channel`), restarts and replaces it (`supervisor`), and serves probes, status and metrics of all (`port`). What runs
in the processes themselves is in `child`, which drives the app's `lifespan`.

Words:
    supervisor  the process that starts the others, and consumes nothing itself
    place       one of the supervisor's processes, and after its end the next one in its stead
    successor   a process that is loaded, and begins when the one before it in its place has ended
"""
