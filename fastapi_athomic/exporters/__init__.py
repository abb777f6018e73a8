"""What an app tells other systems: metrics for OpenTelemetry and Prometheus, run events for OpenLineage.

Takes the counters, timings and statuses of consumers when somebody collects them, and counts nothing itself; gives
them in the other system's format. Sample: the value of one metric at one moment. Lineage run: the life of one handler
in one process, as OpenLineage is told of it.
"""
