"""The AsyncAPI document of an app: what it consumes and what it says it publishes.

Made of the consumers and the declared publishers alone: no broker and no registry is asked, and nothing of the settings
that may be secret is read.
"""
