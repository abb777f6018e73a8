"""State stores remember for ordered consumers how far each aggregate is, who works on it, and what waits for its turn.

One `Call` goes in and one `Reply` comes out, for many aggregates at once. `base` has the protocol; the stores behind it
are the process's memory and Redis.
"""
