"""Fixtures that several folders share; building them takes seconds, so once a session."""

import pytest
import tiny_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tiny_shop.Shop:
    return tiny_shop.build(tmp_path_factory.mktemp("tiny_shop"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
