"""Consuming: one subscription from connecting to leaving the group, again and again until the app ends.

Takes messages from a transport and gives them to a processor, in the order that the strategy keeps; gives the offsets
of concluded messages back to the transport as commits.

Words:
    service      one subscription for one run of the app; it builds a new session when the old one breaks
    session      one membership in the consumer group
    assignment   the partitions that the group has given to a session
    placement    seeks each of these partitions to the offset from which it is read
    strategy     decides which messages are handled at the same time, and which one after the other
    lane         messages that are handled one after the other
    concluded    handled, dead-lettered, or skipped by a rule: the offset may be committed
    note         metadata of a commit: which offsets above the committed one are concluded already
    guard        tells a strategy, before new work starts, whether this process is still a member of the group

Modules, from the ground up:
    bucket       the tokens of a rate limit
    breaker      a circuit breaker: when it opens, lets one message through, and closes
    gate         where work waits for a token or a breaker; both limits of one consumer
    controls     what an operator has set: pauses, concurrency
    attempts     counts the attempts at the first message of a lane
    notes        writes and reads the notes in commits
    offsets      one partition's offsets: which are concluded, and up to where it may be committed
    partitions   one assigned partition: its stage (open, held, leaving, revoked), its messages, its offsets
    progress     how far a partition is, for the status and for who waits
    positions    decides from which offset a partition is read
    read_ahead   decides how many messages of a partition are fetched ahead
    rivals       refuses handlers that would take each other's messages: one topic in one group
    sources      the topics that a subscription names: creates them, or says which are missing
    strategies   the protocol of strategies
    workers      the tasks that serve lanes
    batches      the strategy for batches
    lanes        the strategies for single messages: the order of a partition, of a key, or none; chooses among these
    parts        what the factory gives to each session
    assignment   all partitions of a session: holds them, drains them, lets go of them
    commits      decides when to commit, and commits
    placement    carries out what `positions` decides; also seeks for operators
    intake       takes messages from the client into the partitions: for the poll loop, or where they arrive
    membership   what a session does when the group gives and takes partitions
    session      connects and polls; joins `assignment`, `commits`, `placement`, `intake` and `membership`
    states       of a service, and which may follow which
    supervision  runs one session after the other, with a back-off after each that broke
    account      tells how a consumer does: health, status, what is left to do
    service      joins `supervision`, `account` and what operators do to a consumer
"""
