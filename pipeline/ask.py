"""``twotower recommend`` and ``twotower similar``: ask a running server, and show the answer to a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from twotower.features.errors import InputError
from twotower.pipeline.lookup import Customer, People, day
from twotower_client import Recommender, RecommenderError, UnavailableError

SHOWN = 10
WIDTH = 140
DESCRIPTION = 30
# The first answer after a start may wait for the model.
TIMEOUT = 10.0


def recommend(server: str, model_name: str, out: Path, user: str, k: int, exclude: Sequence[str]) -> int:
    """Print a user's list, and beside it what they bought lately; an unknown user gets one too.

    Raises:
        InputError: there is no run in ``out``, or the server refuses or does not answer.
    """
    people, console = People.of_run(out), _console()
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
    listed = _table(
        f"For {user}, by model version {answer.model_version}", "rank", "product", "what it is", "score", "bought"
    )
    for rank, item in enumerate(answer.items, start=1):
        bought = f"{times_bought[item.item_id]} x" if times_bought[item.item_id] else "new"
        listed.add_row(str(rank), item.item_id, texts.get(item.item_id, ""), f"{item.score:.3f}", bought)
    lately = _table("Bought lately", "day", "what it is", "product")
    for item_id, time in recent:
        lately.add_row(day(time), texts.get(item_id, ""), item_id)
    console.print(Columns([listed, lately] if recent else [listed]))
    return 0


def similar(server: str, model_name: str, out: Path, item: str, k: int) -> int:
    """Print the items nearest to one.

    Raises:
        InputError: there is no such item, no run in ``out``, or the server refuses or does not answer.
    """
    people, console = People.of_run(out), _console()
    description = people.known_item(item)
    try:
        with Recommender(server, model_name, timeout=TIMEOUT) as recommender:
            answer = recommender.similar_items(item, k=k)
    except RecommenderError as error:
        raise _explained(server, error) from None
    texts = people.descriptions(one.item_id for one in answer.items)
    listed = _table(f"Like {item} ({description})", "rank", "product", "what it is", "cosine")
    for rank, one in enumerate(answer.items, start=1):
        listed.add_row(str(rank), one.item_id, texts.get(one.item_id, ""), f"{one.score:.3f}")
    console.print(listed)
    return 0


def _console() -> Console:
    console = Console()
    # Where nobody's window says how wide it is, both tables shall stand side by side.
    return console if console.is_terminal else Console(width=WIDTH)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        right = heading in ("rank", "score", "bought", "cosine")
        width = DESCRIPTION if heading == "what it is" else None
        table.add_column(heading, justify="right" if right else "left", no_wrap=True, max_width=width)
    return table


def _explained(server: str, error: RecommenderError) -> InputError:
    if isinstance(error, UnavailableError):
        return InputError(f"{server}: no model server answers there (start one: twotower serve --model-dir DIR)")
    # TensorFlow appends the place in its graph on lines of their own.
    return InputError(f"{server}: {str(error).splitlines()[0]}")
