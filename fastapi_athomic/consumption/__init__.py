"""Consuming: one subscription from connecting to leaving the group, again and again until the app ends.

Messages come in from a transport and go to a processor, in the order that the strategy keeps; offsets of messages that
are concluded go back to the transport as commits.

Service: one subscription for one run of the app. Session: one membership in the consumer group; the service builds a
new one when the old one breaks. A session has an assignment (its partitions), a placement (where each is read from), a
committer and a membership (what the group tells). Strategy: which messages are handled at once, and which in order.
Lane: messages that are handled one after the other. Concluded: handled, dead-lettered or skipped by a rule, so that
the offset may be committed. Note: metadata of a commit that says which later offsets are concluded already. Guard: what
a strategy asks before it starts new work: whether this process is still a member of the group.
"""
