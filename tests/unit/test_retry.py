import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from fastapi_athomic.exceptions import ConfigurationError
from fastapi_athomic.outcomes import Stage
from fastapi_athomic.retry import GIVE_UP, RetryPolicy
from fastapi_athomic.settings import RetryTuning


def decide(policy: RetryPolicy, error: BaseException | None = None, attempt: int = 1, **given: Any) -> float | None:
    arguments = {"stage": Stage.HANDLER, "chance": lambda: 0.0, **given}
    return policy.decide(error or ValueError("x"), attempt=attempt, **arguments).delay


def test_delays_grow_up_to_their_maximum() -> None:
    policy = RetryPolicy(max_attempts=0, delay=1.0, backoff=3.0, max_delay=10.0)
    assert [decide(policy, attempt=n) for n in (1, 2, 3, 4, 5_000)] == [1.0, 3.0, 9.0, 10.0, 10.0]


def test_attempts_are_limited() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert decide(policy, attempt=2) is not None
    assert decide(policy, attempt=3) is None
    assert decide(RetryPolicy(max_attempts=1)) is None


def test_a_fatal_error_is_not_tried_again_nor_are_its_subclasses() -> None:
    policy = RetryPolicy(fatal=(LookupError,))
    assert decide(policy, KeyError("x")) is None
    assert decide(policy, ValueError("x")) is not None


def test_only_what_retry_on_names_is_tried_again() -> None:
    policy = RetryPolicy(retry_on=(ConnectionError,))
    assert decide(policy, ConnectionResetError()) is not None
    assert decide(policy, ValueError()) is None


@pytest.mark.parametrize(
    ("members", "again"),
    [
        ([ConnectionError(), ConnectionError()], True),
        ([ConnectionError(), ValueError()], False),
        ([ConnectionError(), ExceptionGroup("inner", [KeyError()])], False),
    ],
)
def test_groups_are_judged_by_their_members(members: list[Exception], again: bool) -> None:
    policy = RetryPolicy(retry_on=(ConnectionError,), fatal=(KeyError,))
    assert (decide(policy, ExceptionGroup("group", members)) is not None) is again


@pytest.mark.parametrize("stage", [Stage.DECODE, Stage.HEADERS])
def test_what_cannot_be_decoded_is_never_tried_again(stage: Stage) -> None:
    assert decide(RetryPolicy(max_attempts=0), stage=stage) is None


def test_no_attempt_is_started_after_the_time_limit() -> None:
    policy = RetryPolicy(max_attempts=0, delay=5.0, backoff=1.0, max_elapsed=12.0)
    assert decide(policy, elapsed=7.0) == 5.0
    assert decide(policy, elapsed=7.1) is None


def test_the_delay_may_be_a_function_of_attempt_and_error() -> None:
    policy = RetryPolicy(delay=lambda attempt, error: attempt * len(error.args), max_delay=100)
    assert decide(policy, ValueError("a", "b"), attempt=2) == 4


async def in_a_while(attempt: int, error: BaseException) -> float:
    return 0.0


def fails(attempt: int, error: BaseException) -> float:
    raise LookupError("s3cret")


class Panic(BaseException): ...


def panics(attempt: int, error: BaseException) -> float:
    raise Panic


NONSENSE: dict[str, Any] = {
    "nan": lambda *_: float("nan"),
    "negative": lambda *_: -1,
    "infinite": lambda *_: float("inf"),
    "large": lambda *_: 10**400,
    "text": lambda *_: "5",
    "nothing": lambda *_: None,
    "truth": lambda *_: True,
    "coroutine": in_a_while,
    "fails": fails,
    "panics": panics,
    "takes-nothing": lambda: 1.0,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_fault_04_a_delay_function_that_gives_nonsense_has_the_default_delay(name: str) -> None:
    policy = RetryPolicy(max_attempts=3, delay=NONSENSE[name], max_delay=0.7)
    decisions = [policy.decide(ValueError(), stage=Stage.HANDLER, attempt=n, chance=lambda: 0.0) for n in (1, 2, 3)]
    assert [decision.delay for decision in decisions] == [0.5, 0.7, None]
    assert "the delay function" in (decisions[0].problem or "")
    assert "s3cret" not in (decisions[0].problem or "")


@pytest.mark.parametrize("error", [Panic(), SystemExit(), MemoryError(), BaseExceptionGroup("g", [Panic()])])
def test_fault_04_by_default_whatever_is_raised_is_tried_again(error: BaseException) -> None:
    assert decide(RetryPolicy(delay=1.0), error) == 1.0
    assert decide(RetryPolicy(retry_on=(Exception,)), error) == (0.5 if isinstance(error, Exception) else None)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10_000))
def test_jitter_only_shortens_and_by_no_more_than_its_share(jitter: float, chance: float, attempt: int) -> None:
    policy = RetryPolicy(max_attempts=0, delay=2.0, max_delay=60, jitter=jitter)
    delay = decide(policy, attempt=attempt, chance=lambda: chance)
    whole = decide(policy, attempt=attempt, chance=lambda: 0.0)
    assert delay is not None
    assert whole is not None
    assert whole * (1 - jitter) - 1e-9 <= delay <= whole


@given(st.integers(0, 20), st.integers(1, 40))
def test_the_number_of_attempts_is_exactly_the_maximum(maximum: int, attempt: int) -> None:
    decision = RetryPolicy(max_attempts=maximum).decide(ValueError(), stage=Stage.TIMEOUT, attempt=attempt)
    assert decision.again is (maximum == 0 or attempt < maximum)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_attempts": -1}, "max_attempts must be a whole number: 1 or more, or 0 for no limit, not -1"),
        ({"max_attempts": "3"}, "max_attempts must be a whole number: .* not '3'"),
        ({"max_attempts": True}, "max_attempts must be a whole number: .* not True"),
        ({"max_attempts": None}, "max_attempts must be a whole number: .* not None"),
        ({"max_attempts": 3.0}, "max_attempts must be a whole number: .* not 3.0"),
        ({"delay": -1}, "delay must be a number of seconds, 0 or more, or a function that returns them, not -1"),
        ({"delay": "1"}, "delay must be a number of seconds, .* not '1'"),
        ({"delay": None}, "delay must be a number of seconds"),
        ({"delay": math.nan}, "delay must be a number of seconds"),
        ({"delay": math.inf}, "delay must be a number of seconds"),
        ({"delay": timedelta(seconds=1)}, "delay must be a number of seconds, .* not a timedelta"),
        ({"backoff": 0.5}, "backoff must be a number of 1 or more, not 0.5"),
        ({"backoff": math.nan}, "backoff must be"),
        ({"backoff": math.inf}, "backoff must be"),
        ({"max_delay": -1}, "max_delay must be a number of seconds, 0 or more"),
        ({"max_delay": math.nan}, "max_delay must be"),
        ({"max_delay": math.inf}, "max_delay must be"),
        ({"max_delay": "1"}, r"max_delay must be .*, or None \(30, or the delay where that is longer\), not '1'"),
        ({"jitter": 2}, "jitter must be a number between 0 and 1, not 2"),
        ({"jitter": True}, "jitter must be"),
        ({"max_elapsed": 0}, r"max_elapsed must be a number of seconds above 0, or None \(no limit\), not 0"),
        ({"max_elapsed": math.nan}, "max_elapsed must be"),
        ({"max_elapsed": "60"}, "max_elapsed must be"),
        ({"retry_on": ValueError}, r"retry_on must be a tuple of exception types, .*, not the class ValueError"),
        ({"fatal": ("ValueError",)}, r"fatal must be a tuple of exception types, .*, not \('ValueError',\)"),
        ({"fatal": [ValueError]}, r"fatal must be a tuple of exception types, such as \(ValueError,\), not \["),
        ({"retry_topics": (0,)}, r"retry_topics must be a tuple of numbers .*, such as \(10, 60\), not \(0,\)"),
        ({"retry_topics": [10]}, "retry_topics must be a tuple"),
        ({"retry_topics": 10}, "retry_topics must be a tuple"),
        ({"retry_topics": ("10s",)}, "retry_topics must be a tuple"),
        ({"retry_topics": (math.inf,)}, "retry_topics must be a tuple"),
        ({"retry_topics": (10, 10.0)}, "retry_topics must differ: each topic is named after its delay, 10, 10"),
        ({"retry_topics": (10, 10.0000001)}, "retry_topics must differ"),
        ({"retry_topics": (60, 5)}, r"retry_topics must ascend, each delay longer than the one before: \(5, 60\)"),
        ({"allow_reordering": "yes"}, "allow_reordering must be True or False, not 'yes'"),
        ({"delay": 60, "max_delay": 30}, r"delay \(60 s\) exceeds max_delay \(30 s\): raise max_delay, too"),
        ({"max_attempts": 0, "delay": 0}, "max_attempts=0 means no limit, .* without a pause: set a delay"),
        ({"max_attempts": 0, "max_delay": 0}, "max_attempts=0 means no limit, .* without a pause"),
        ({"max_attempts": 0, "retry_topics": (1,)}, "max_attempts=0 .* no message would ever come to the retry_topics"),
    ],
)
def test_nonsense_is_named_with_what_is_allowed(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^RetryPolicy: {said}"):
        RetryPolicy(**wrong)


def test_a_maximum_below_the_default_delay_needs_no_delay_of_its_own() -> None:
    assert decide(RetryPolicy(max_delay=0.1, jitter=0)) == 0.1


@pytest.mark.parametrize(
    "policy", [RetryPolicy(delay=60, jitter=0), RetryPolicy(jitter=0).tuned(RetryTuning(delay=60))]
)
def test_a_long_delay_is_kept_where_no_maximum_is_set(policy: RetryPolicy) -> None:
    assert [decide(policy, attempt=attempt) for attempt in (1, 2)] == [60, 60]


def test_delays_grow_up_to_half_a_minute_where_no_maximum_is_set() -> None:
    assert decide(RetryPolicy(jitter=0, max_attempts=0), attempt=20) == 30


def test_tuning_replaces_single_fields() -> None:
    policy = RetryPolicy(max_attempts=3, delay=1.0).tuned(RetryTuning(max_attempts=7))
    assert (policy.max_attempts, policy.delay) == (7, 1.0)
    assert policy.tuned(None) is policy
    assert not GIVE_UP.again


class SubError(LookupError): ...


errors = st.sampled_from(
    [
        ValueError(),
        KeyError(),
        SubError(),
        ExceptionGroup("g", [ValueError(), SubError()]),
        ExceptionGroup("g", [ValueError()]),
    ]
)


def policy_or_reject(**options: Any) -> RetryPolicy:
    try:
        return RetryPolicy(**options)
    except ConfigurationError:  # they contradict each other
        reject()


policies = st.builds(
    policy_or_reject,
    max_attempts=st.integers(0, 5),
    delay=st.floats(0, 10),
    backoff=st.floats(1, 3),
    max_delay=st.floats(0, 20),
    jitter=st.floats(0, 1),
    max_elapsed=st.none() | st.floats(0.1, 100),
    retry_topics=st.lists(st.floats(0.1, 100), unique=True, max_size=3).map(sorted).map(tuple),
    retry_on=st.sampled_from([(Exception,), (ValueError,)]),
    fatal=st.sampled_from([(), (LookupError,)]),
)


@given(
    policies,
    errors,
    st.sampled_from(list(Stage)),
    st.integers(1, 8),
    st.integers(0, 4),
    st.floats(0, 200),
    st.floats(0, 1),
)
def test_a_decision_keeps_every_rule(
    policy: RetryPolicy, error: Exception, stage: Stage, attempt: int, place: int, elapsed: float, chance: float
) -> None:
    decision = policy.decide(error, stage=stage, attempt=attempt, place=place, elapsed=elapsed, chance=lambda: chance)
    leaves = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    hopeless = (
        stage in (Stage.DECODE, Stage.HEADERS)
        or any(isinstance(leaf, policy.fatal) for leaf in leaves)
        or not all(isinstance(leaf, policy.retry_on) for leaf in leaves)
    )
    assert decision.delay is None or decision.later is None, "one or the other"
    if hopeless:
        assert decision == GIVE_UP
    if decision.delay is not None:
        assert place == 0
        assert policy.max_attempts == 0 or attempt < policy.max_attempts
        assert 0 <= decision.delay <= policy.longest_delay
    if decision.later is not None:
        assert decision.later == policy.retry_topics[place]
        assert place > 0 or attempt >= policy.max_attempts > 0
    waiting = decision.delay if decision.delay is not None else decision.later
    if waiting is not None and policy.max_elapsed is not None:
        assert elapsed + waiting <= policy.max_elapsed
    if waiting is None and not hopeless and policy.max_elapsed is None:
        assert place >= len(policy.retry_topics), "given up only when nothing is left"
