"""``twotower recommend`` and ``twotower similar``: ask a running server, and show the answer to a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from twotower.features.errors import InputError
from twotower.pipeline.lookup import Customer, People, day
from twotower_client import Recommender, RecommenderError, UnavailableError

SHOWN = 10
# The first answer after a start may wait for the model.
TIMEOUT = 10.0


def recommend(server: str, model_name: str, out: Path, user: str, k: int, exclude: Sequence[str]) -> int:
    """Print a user's list, and beside it what they bought lately; an unknown user gets one too.

    Raises:
        InputError: there is no run in ``out``, or the server refuses or does not answer.
    """
    people, console = People.of_run(out), Console()
    customer = people.customer(user)
    if customer is None:
        console.print(f"user {user}: no purchase is known; the list is for somebody new", highlight=False)
        customer = Customer(user, {}, [], [])
    try:
        with Recommender(server, model_name, timeout=TIMEOUT) as recommender:
            history = list(zip(customer.items, customer.times, strict=True))
            answer = recommender.recommend(user, history, k=k, exclude=exclude, user=customer.features)
    except RecommenderError as error:
        raise _explained(server, error) from None
    recent = list(zip(customer.items, customer.times, strict=True))[: -SHOWN - 1 : -1]
    texts = people.descriptions([*(item.item_id for item in answer.items), *customer.items[-SHOWN:]])
    times_bought = Counter(customer.items)
    title = f"For {user}, by model version {answer.model_version}"
    listed = Table(title=title, title_justify="left")
    for heading in ("rank", "product", "what it is", "score", "bought"):
        listed.add_column(heading, justify="right" if heading in ("rank", "score", "bought") else "left")
    for rank, item in enumerate(answer.items, start=1):
        bought = f"{times_bought[item.item_id]} x" if times_bought[item.item_id] else "new"
        listed.add_row(str(rank), item.item_id, texts.get(item.item_id, ""), f"{item.score:.3f}", bought)
    lately = Table(title="Bought lately", title_justify="left")
    for heading in ("day", "product", "what it is"):
        lately.add_column(heading)
    for item_id, time in recent:
        lately.add_row(day(time), item_id, texts.get(item_id, ""))
    console.print(Columns([listed, lately] if recent else [listed]))
    return 0


def similar(server: str, model_name: str, out: Path, item: str, k: int) -> int:
    """Print the items nearest to one.

    Raises:
        InputError: there is no such item, no run in ``out``, or the server refuses or does not answer.
    """
    people, console = People.of_run(out), Console()
    description = people.known_item(item)
    try:
        with Recommender(server, model_name, timeout=TIMEOUT) as recommender:
            answer = recommender.similar_items(item, k=k)
    except RecommenderError as error:
        raise _explained(server, error) from None
    texts = people.descriptions(one.item_id for one in answer.items)
    listed = Table(title=f"Like {item} ({description})", title_justify="left")
    for heading in ("rank", "product", "what it is", "cosine"):
        listed.add_column(heading, justify="right" if heading in ("rank", "cosine") else "left")
    for rank, one in enumerate(answer.items, start=1):
        listed.add_row(str(rank), one.item_id, texts.get(one.item_id, ""), f"{one.score:.3f}")
    console.print(listed)
    return 0


def _explained(server: str, error: RecommenderError) -> InputError:
    if isinstance(error, UnavailableError):
        return InputError(f"{server}: no model server answers there (start one: twotower serve --model-dir DIR)")
    return InputError(f"{server}: {error}")
