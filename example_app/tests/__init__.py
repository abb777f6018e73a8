"""The shop's own tests, written as those of any app: docs/testing.md says what a kit can do."""
