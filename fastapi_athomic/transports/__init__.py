"""How messages reach a broker: `memory://` (embedded) and `kafka://`, behind the protocols in `base`.

In come messages to publish, and consumer groups to join; out go `RawMessage`s, committed offsets, and errors as
`TransportError`. No type of a client library leaves the room. A third transport implements the protocols in `base`,
in a folder of its own beside `memory` and `kafka`, and is chosen by its scheme in `schemes`.
"""
