"""The HTTP routes that are added to an app: health and probes, the status of its consumers, metrics for Prometheus.

They read the manager and the exporters, and answer in the shapes of `observation.status`.
"""
