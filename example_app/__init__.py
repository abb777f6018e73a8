"""A small order service: HTTP in, Kafka between, consumers beside the routes."""
