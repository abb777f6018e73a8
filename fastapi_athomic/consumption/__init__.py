"""Consuming: one subscription from connecting to leaving the group, again and again until the app ends.

In come messages from a transport; they go to a processor in the order that the strategy keeps, and what is concluded
goes back as committed offsets.

Service: one subscription for one run of the app. Session: one membership in the group; a service builds a new one when
the old one breaks. Lane: messages that must be handled one after the other. Concluded: handled, dead-lettered or
skipped by a rule; such an offset may be committed. Note: the text beside a committed offset that says which later
offsets are done already. Guard: what a strategy asks before it starts something new, whether the process still belongs
to the group.
"""
