"""Kafka consumers that run inside a FastAPI service.

Importing this package gives `fastapi.FastAPI` the method `include_athomic`.
"""

from .athomic import Athomic, get_athomic
from .control.actions import Actor, ControlAction, ControlEvent
from .control.results import ProcessResult, SteeringResult
from .control.steering import SeekPlan
from .declared_publishers import Publisher
from .decorators import ordered_consumer, subscribe_to
from .exceptions import (
    AthomicError,
    BatchItemError,
    CommitFailedError,
    ConfigurationError,
    ControlRefusedError,
    DiscoveryError,
    DuplicateHandlerError,
    HandlerNotFoundError,
    HandlerSignatureError,
    HandlerTimeoutError,
    MessageRefusedError,
    MessageTooLargeError,
    NotAcknowledgedError,
    NotAuthorizedError,
    NotFoundError,
    NotIncludedError,
    PartitionNotFoundError,
    PayloadDecodeError,
    PayloadEncodeError,
    PayloadError,
    PayloadUnavailableError,
    PublishError,
    SequenceGapError,
    SourceNotFoundError,
    StateStoreError,
    ThreadStartError,
    TopicNotFoundError,
    TransportClosedError,
    TransportError,
    WorkerDiedError,
)
from .failures.dead_letters import DeadLetters
from .failures.letters import DeadLetter
from .failures.settling import SettlingReport
from .handling.keys import Key
from .inclusion import include_athomic, install
from .limits import CircuitBreaker, RateLimit
from .messages import DeliveryAttempt, MessageHeaders, PublishedMessage, RawMessage
from .observation.logs import MessageFilter
from .outcomes import ConsumptionOutcome, FailureContext, Stage
from .payload.pipeline import PayloadPipeline
from .propagation.context import ExecutionContext, capture_context, get_context, restore_context, set_context
from .propagation.lineage import Lineage, get_lineage
from .retry import RetryPolicy
from .settings import AthomicSettings, HandlerTuning, KafkaSettings

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Athomic",
    "AthomicError",
    "AthomicSettings",
    "BatchItemError",
    "CircuitBreaker",
    "CommitFailedError",
    "ConfigurationError",
    "ConsumptionOutcome",
    "ControlAction",
    "ControlEvent",
    "ControlRefusedError",
    "DeadLetter",
    "DeadLetters",
    "DeliveryAttempt",
    "DiscoveryError",
    "DuplicateHandlerError",
    "ExecutionContext",
    "FailureContext",
    "HandlerNotFoundError",
    "HandlerSignatureError",
    "HandlerTimeoutError",
    "HandlerTuning",
    "KafkaSettings",
    "Key",
    "Lineage",
    "MessageFilter",
    "MessageHeaders",
    "MessageRefusedError",
    "MessageTooLargeError",
    "NotAcknowledgedError",
    "NotAuthorizedError",
    "NotFoundError",
    "NotIncludedError",
    "PartitionNotFoundError",
    "PayloadDecodeError",
    "PayloadEncodeError",
    "PayloadError",
    "PayloadPipeline",
    "PayloadUnavailableError",
    "ProcessResult",
    "PublishError",
    "PublishedMessage",
    "Publisher",
    "RateLimit",
    "RawMessage",
    "RetryPolicy",
    "SeekPlan",
    "SequenceGapError",
    "SettlingReport",
    "SourceNotFoundError",
    "Stage",
    "StateStoreError",
    "SteeringResult",
    "ThreadStartError",
    "TopicNotFoundError",
    "TransportClosedError",
    "TransportError",
    "WorkerDiedError",
    "__version__",
    "capture_context",
    "get_athomic",
    "get_context",
    "get_lineage",
    "include_athomic",
    "ordered_consumer",
    "restore_context",
    "set_context",
    "subscribe_to",
]


def __dir__() -> list[str]:
    """What is for users: completion in a shell shows no modules."""
    return __all__


install()
del install
