"""`memory://`: a broker inside the process. Partitions, groups and rebalances mean what they mean on Kafka."""
