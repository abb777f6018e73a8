"""The AsyncAPI document of an app: what it consumes and what it says it publishes.

A flow is what the document is made of: messages of one type go through one topic in one direction, for a purpose (a
source, what is published, retry, redrive, dead letters).

Made of the consumers and the declared publishers alone: no broker and no registry is asked, and nothing of the settings
that may be secret is read.
"""
