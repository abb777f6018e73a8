"""What is known inside: counters and timings on the hot path, gauges, statuses, and the fields of log records.

Everybody above may write counters; who asks reads them. Nothing here knows who exports them.
"""
