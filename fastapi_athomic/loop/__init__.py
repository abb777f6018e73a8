"""Consumers share the process with HTTP routes: its event loop, its garbage collector, its signals.

In come questions (how long may I work, how late is the loop, where do I run); out go answers, and warnings about who
blocks the loop. Nothing here knows what a message is. Share: the time that consumers may use the loop before they give
it back. Home: the event loop that consumers run in. Late: a loop that turns behind its schedule.
"""
