"""Consumers share the process with HTTP routes: its event loop, its garbage collector, its signals.

Takes questions (how long may I work, how late is the loop, where do I run); gives answers, and warnings about who
blocks the loop. Nothing here knows what a message is. Share: the time that consumers may use the loop before they give
it back. Turn: one pass of the loop over its sockets and all that is due. Home: the event loop that consumers run in.
Late: callbacks run after their time. Lag is that delay here; the lag of a consumer is in `consumption.account`.
"""
