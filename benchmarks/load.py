"""Load on a model server: requests without pause from several clients, or at a rate; each one's time and outcome.

In a process of its own and without TensorFlow, so that it takes as little as it can of the cores that the server needs:

    python benchmarks/load.py --target localhost:8500 --request predict.bin --clients 16 --out load.json
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop

METHOD = "/tensorflow.serving.PredictionService/Predict"
TIMEOUT_SECONDS = 30.0


async def run(target: str, request: bytes, clients: int, seconds: float, rate: float) -> list[tuple[float, float, str]]:
    """When each request began (seconds from the start), what it took, and its status.

    Args:
        target: `host:port`.
        request: a serialized `PredictRequest`.
        clients: connections; without a rate, each asks again as soon as it has its answer.
        seconds: how long.
        rate: requests a second in all, begun whether or not the former ones are done; 0 for without pause.
    """
    done: list[tuple[float, float, str]] = []
    start = time.perf_counter()

    async def ask(method: Any) -> None:
        began = time.perf_counter()
        try:
            await method(request, timeout=TIMEOUT_SECONDS)
            status = "OK"
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        done.append((began - start, time.perf_counter() - began, status))

    async def ask_without_pause(method: Any) -> None:
        while time.perf_counter() - start < seconds:
            await ask(method)

    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", -1),
    ]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(clients)]
    methods = [channel.unary_unary(METHOD) for channel in channels]
    if rate:
        pending = []
        for number in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            pending.append(asyncio.ensure_future(ask(methods[number % clients])))
        await asyncio.gather(*pending)
    else:
        await asyncio.gather(*(ask_without_pause(method) for method in methods))
    for channel in channels:
        await channel.close()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="host:port")
    parser.add_argument("--request", type=Path, required=True, help="file with a serialized PredictRequest")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, required=True, help="file for what each request took, as JSON")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: without pause")
    options = parser.parse_args()
    done = uvloop.run(run(options.target, options.request.read_bytes(), options.clients, options.seconds, options.rate))
    options.out.write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main()
