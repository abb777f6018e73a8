"""What happens to a message that failed: another attempt in place, a retry topic, or a dead letter.

In come failures as values (`outcomes.FailureContext`). Out go judgements (`dlq.Judgement`), and messages to the
package's own topics; people read and settle dead letters through `dead_letters.DeadLetters`.

- Letter: a dead letter, a message in a DLQ topic. It is open until a redrive or a discard settles it.
- Marker: a message behind letters in the same partition, which says that they are settled.
- Redrive: the message goes back to the group that failed, through its redrive topic.
- Own topics: the DLQ, retry and redrive topics, which the package creates. Return topics: the last two.
- Source: the topic in which a message was first, before it failed.
"""
