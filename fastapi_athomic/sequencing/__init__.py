"""Ordered consumption: each aggregate's messages in the order of their sequence numbers, each once.

In come decoded messages of the partitions; out go calls of the handler, and what the state store is to remember. It is
one strategy of `consumption` with a store behind it.

Aggregate: all messages with one aggregate key. Waiting room: the part of the state store in which messages wait that
came before their predecessors; to park is to put one there. Ledger: what is handled, parked and claimed, on its way to
the store. Lease: the time for which an aggregate belongs to one process. Burial: a number that is given up.
"""
