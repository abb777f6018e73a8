"""What happens to a message that failed: another attempt in place, a retry topic, or a dead letter.

Takes failures as values (`outcomes.FailureContext`); gives judgements (`dlq.Judgement`), and messages to the package's
own topics. People read and settle dead letters through `dead_letters.DeadLetters`.

Words:
    letter      a dead letter: a message in a DLQ topic. It is open until a redrive or a discard settles it
    marker      a message behind letters in the same partition, which says that they are settled
    redrive     sends the message of a letter back to the group that failed, through its redrive topic
    own topics  the DLQ, retry and redrive topics, which the package creates. Return topics: the last two
    source      the topic in which a message was before it failed for the first time

Modules, from the ground up:
    letter_headers  the headers of letters and markers, and of messages in return topics
    own_topics      the names of own topics, built and recognised. Asks no broker
    letters         one letter as it is read, and the message that a redrive makes of it
    return_topics   the return topics of one handler: which there can be, and when their messages are due
    markers         one marker, written and read
    pattern_topics  which topics a subscription by pattern consumes
    topic_maker     creates topics: for all handlers in one request
    topic_watch     which of the app's topics exist: has those to write to created, follows return topics
    failure_log     tells what became of each failure: in the log, and as the last error in the status
    writing         writes one failed message to a DLQ or retry topic
    name_clashes    do the topics of different handlers get along? Asked once, at the start
    dlq             decides what happens to a failure, and has it done. Processors call it
    left_behind     warns at the start of messages that earlier deploys left in own topics
    mailbox         finds a handler's letters, and which of them are open
    settling        redrives and discards letters
    dead_letters    browsing, redriving and discarding for people: the public `DeadLetters`
"""
