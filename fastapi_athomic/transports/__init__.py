"""How messages reach a broker: `memory://` (embedded) and `kafka://`, behind the protocol in `base`."""
