"""What travels with a message or a request: trace, lineage and execution context, in headers and context variables.

In come headers of received messages and of HTTP requests; out go spans, context variables, and headers of what is
published. Adapter: reads and writes the headers of one concern. Orchestrator: opens and closes all of them in order.
"""
