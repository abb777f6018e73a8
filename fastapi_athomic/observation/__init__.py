"""What the running app knows about itself: counters, timings, gauges, statuses, and the fields of log records.

The rooms above count and measure into it; status routes and exporters read from it. Nothing here knows who reads.
Counter: a number that only grows. Gauge: a value now. Status: what a consumer is doing, and whether it is healthy.
"""
