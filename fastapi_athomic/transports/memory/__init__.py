"""`memory://`: a broker inside the process. Partitions, groups and rebalances mean the same as on Kafka.

`MemoryTransport` is the way in; it implements the protocols of `transports.base`, and only their types go in and out.
Log: the messages of one partition. Watcher: a member that is told when its log grows.
"""
