"""How messages reach a broker: `memory://` (embedded) and `kafka://`, behind the protocols in `base`.

Takes messages to publish, and consumer groups to join; gives `RawMessage`s, committed offsets, and errors as
`TransportError`. No type of a client library leaves the room. A third transport implements the protocols in `base`,
in a folder of its own beside `memory` and `kafka`, and is chosen by its scheme in `schemes`. Member: one consumer in a
group. Held: a partition that is not fetched, because its next message cannot be read.
"""
