"""The asyncio client as a blocking one, so that one suite holds for both."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

from twotower_client import AsyncRecommender, Recommender

Connect = Callable[..., Recommender]


class InLoop:
    """An AsyncRecommender in an event loop of its own, called from other threads and waited for."""

    def __init__(self, make: Callable[..., AsyncRecommender], *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def made() -> AsyncRecommender:
            return make(*args, **kwargs)

        try:
            self._client = self._wait(made())
        except BaseException:
            self._stop()
            raise

    @classmethod
    def connect(
        cls, *args: Any, make: Callable[..., AsyncRecommender] = AsyncRecommender, **kwargs: Any
    ) -> Recommender:
        return cast(Recommender, cls(make, *args, **kwargs))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._wait(getattr(self._client, name)(*args, **kwargs))

    def __enter__(self) -> "InLoop":
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.close())
        self._stop()

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
