"""From Python values to bytes and back, and whether a value would be read back as the same one.

In come values and the type that is declared for them; out go bytes, or an error that names the field, never its value.
"""
