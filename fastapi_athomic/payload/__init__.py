"""From Python values to bytes and back, with a check that a published value can be read back as the same value.

Takes values and the types declared for them; gives bytes, or an error that names the field and never its value.
Step: something done to the bytes, such as compression. Loss: a place where the value that is read differs from the one
that was written. Flat: a model whose fields hold no other models.
"""
