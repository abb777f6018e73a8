"""What becomes of a message that failed: another attempt in place, a retry topic, or a dead letter.

In come failures as values (`outcomes.FailureContext`); out go judgements, and messages to the product's own topics.
People look at dead letters, send them back (redrive) or discard them through `DeadLetters`.

Letter: a dead letter, as a message on its topic. Marker: a message behind it that settles it. Own topics: the DLQ,
retry and redrive topics that the product makes.
"""
