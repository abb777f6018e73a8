"""The HTTP routes that are added to an app: health and probes, the status of its consumers, metrics, and control.

Takes what the manager and the exporters say; gives it in the shapes of `observation.status`. Probe: a route that an
orchestrator such as Kubernetes asks whether to restart the process (live), and whether to send it requests (ready).
Problem: an error as JSON for programs, by RFC 9457. What changes something, and dead letters, are apart:
`control_routes` and `letter_routes`, behind what `control_parts` demands.
"""
