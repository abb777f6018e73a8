"""One message, or one batch, to one call of the handler: its scope, its arguments, its thread, its timeout.

In comes a message; out goes an outcome or, when the handler failed, the judgement of `failures`. No order is kept here
and no offset is known.
"""
