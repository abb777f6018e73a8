"""What the running app knows about itself: counters, timings, gauges, statuses, and the fields of log records.

Takes numbers from the rooms that count and measure; gives them to status routes and exporters, and judges health by
them. Nothing here knows who reads. Counter: a number that only grows. Gauge: a value now. Status: what a consumer is
doing, and whether it is healthy.
"""
