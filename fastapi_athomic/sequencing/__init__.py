"""Ordered consumption: handles each aggregate's messages in the order of their sequence numbers, each once.

Takes the messages of assigned partitions; gives calls of the handler, and what the state store has to remember. It is
one of the strategies of `consumption`, with a state store behind it. Nothing here knows which store that is.

Words:
    aggregate     all messages with one aggregate key (the value of a field of the payload), one sequence of numbers
    next          the message after the last one that is done. Early: it came before its turn. Late: its number is done
    waiting room  the part of the state store where early messages wait; to park is to put one there
    lease         the time for which an aggregate belongs to one process; a fencing token tells leases apart
    gap           a number is missing before a message that waits
    burial        a message goes from the waiting room to the DLQ without being handled
    refusal       a message goes to the DLQ because it has no place in any sequence

Modules, from the ground up:
    fields        does the type of the messages have the two fields? Asked once, at the start
    aggregates    what this process knows of one aggregate: its messages, its lease, its state
    assignment    the partitions that this process has
    packing       raw messages as bytes, as they are kept in the waiting room
    calls         the next call to the store: who takes part, when it is sent, what it asks
    duplicates    what happens to a message whose number is done already
    burials       dead letters of messages that are never handled
    holdings      all aggregates that this process works on; which leases are renewed or given back
    waiting_room  takes back what waits in the store, and decides about gaps
    attempts      one attempt at the next message, and what follows from it
    survey        looks through the waiting rooms of the whole group once in a while
    ledger        the conversation with the store: sends calls and acts on the answers
    serving       who acts next on an aggregate (a worker, the store, nobody), and what workers do
    intake        reads the aggregate key and the sequence number of each message, and puts it in its place
    strategy      the session's view of all this, and its wiring
    groups        the app's ordered consumers: checks what they need, and builds their strategies
"""
