"""What travels with a message or a request: trace, execution context and lineage.

Takes the headers of received messages and of HTTP requests; gives spans, context variables, and the headers of what is
published.

Words:
    adapter         reads and writes the headers of one concern: trace, context or lineage
    orchestrator    runs the adapters around each message of one handler, and for each publish
    scope           what the orchestrator opened for one message, and must close
    remote context  the trace context that the producer sent

Modules, from the ground up:
    app_tracing     the tracer provider of the app, and who makes the spans of its HTTP requests
    context         the execution context: its values, its context variable, its adapter
    trace_headers   trace headers become a trace context, and a span becomes trace headers. Makes no spans
    lineage         the lineage headers, and their adapter
    middleware      the execution context of HTTP requests
    telemetry       the spans of messages: the adapter of traces
    headers         one orchestrator: what happens around a message
    orchestrators   makes all orchestrators of an app
"""
