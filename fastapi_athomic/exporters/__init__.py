"""What the outside is told: metrics for OpenTelemetry and Prometheus, run events for OpenLineage.

In come counters, timings and statuses, read when somebody asks; out go samples and events. Nothing is counted here.
"""
