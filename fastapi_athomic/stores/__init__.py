"""State stores: what ordered consumption remembers."""
