"""`kafka://`: Apache Kafka and what speaks its protocol, through aiokafka, with what aiokafka lacks.

The only place that imports aiokafka. `transport` is the way in; `base` of the folder above is what it keeps.
"""
