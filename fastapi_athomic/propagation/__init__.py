"""What travels with a message or a request: trace, execution context and lineage.

In come the headers of received messages and of HTTP requests; out go spans, context variables, and the headers of what
is published. Adapter: reads and writes the headers of one concern, in `telemetry`, `context` or `lineage`.
Orchestrator (`headers`): runs the adapters around each message. Scope: what it has opened and will close. Remote
context: the trace context that the producer sent.
"""
