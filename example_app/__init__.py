"""A small shop: HTTP in, Kafka between, consumers beside the routes. docs/example.md shows you round."""
