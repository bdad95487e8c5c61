"""What a call waits for, described and not done: the blocking and the asyncio client carry the same plans out.

A plan is a generator that yields steps, receives each step's result (or its error, raised at the ``yield``) and
returns the call's answer. It holds all of a call's logic, and no waiting.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Rpc:
    """Send one request; the result is the reply, errors are RecommenderErrors.

    Attributes:
        method: a key of ``channel.METHODS``.
        timeout: seconds.
        wait_for_ready: wait for a connection instead of failing without one.
    """

    method: str
    request: Any
    timeout: float
    wait_for_ready: bool = False


@dataclass(frozen=True)
class Sleep:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Alone:
    """Carry out a plan while no other plan of this client is within such a step; the result is the plan's.

    Attributes:
        timeout: seconds to wait for the turn; DeadlineExceededError after them, with `waiting_for` as its message.
    """

    plan: Plan[Any]
    timeout: float
    waiting_for: str


@dataclass(frozen=True)
class Together:
    """Carry out plans at the same time, a bounded number of them; the result is the list of theirs, in order."""

    plans: Sequence[Plan[Any]]


@dataclass(frozen=True)
class SecondStage:
    """Carry out a plan by the client of the second stage, which a two-stage client has; the result is the plan's."""

    plan: Plan[Any]


Step: TypeAlias = "Rpc | Sleep | Alone | Together | SecondStage"
Plan: TypeAlias = Generator[Step, Any, T]
