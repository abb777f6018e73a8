"""What an app tells other systems: metrics for OpenTelemetry and Prometheus, run events for OpenLineage.

Exporters read the consumers' counters, timings and statuses when they are asked for them, and count nothing themselves.
A run is the life of one handler in one process; a sample is the value of one metric at one moment.
"""
