"""Handling: one message, or one batch, in one call of a handler: its scope, its arguments, its thread, its time limit.

Takes a message; gives an outcome or, if the handler failed, the judgement of `failures`. This room keeps no order and
knows nothing of commits. Plan: how a handler is called, compiled from its signature at start-up. Delivery: what can be
injected into one call. Fence: tells whether the partition of a message was revoked while it ran.
"""
