"""What happens in a life. Each event makes sure that it happened, and gives what it found wrong meanwhile."""

from . import foreign_topics, own_topics, poison, processes, spells
from .registry import EVENTS, Event

__all__ = ["EVENTS", "Event", "foreign_topics", "own_topics", "poison", "processes", "spells"]
