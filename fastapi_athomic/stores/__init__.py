"""State stores remember for ordered consumers how far each aggregate is, who works on it, and what waits for its turn.

Takes one `Call` for many aggregates at once; gives one `Reply`. `base` has the protocol; the stores behind it are the
process's memory and Redis. Call: what one member asks of all its aggregates in one round trip. Reply: the answers to
it. Claim: the lease of an aggregate that was granted to a member, with its fencing token. Beside them, `shared`: small
documents that the processes of a service show each other.
"""
