"""The HTTP routes of the extension: health and readiness, the status of the consumers, metrics for Prometheus.

In come the manager and the exporters; out go responses, whose shapes are those of `observation.status`.
"""
