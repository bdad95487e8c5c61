"""What the client costs: import time, wheel, installed size, time a call beside the bare gRPC call, and gzip.

    python benchmarks/client.py

The server is another process that gives the same ready-made reply at once, so that what is measured is the client. The
rival is gRPC alone: the same bytes sent over the same kind of channel, not built and not read.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from twotower_client import AsyncRecommender, Recommender
from twotower_client import wire_pb2 as wire
from twotower_client.channel import METHODS, OPTIONS
from twotower_client.tensors import Tensor, encode

INSTALLED = ("twotower-client", "grpcio", "numpy", "protobuf")
CALLS = 2000
WARM_UP = 200
CONCURRENT = 16
PREDICT = METHODS["Predict"]
INPUTS = {
    "user_id": (wire.DT_STRING, (-1,)),
    "history_item_ids": (wire.DT_STRING, (-1, -1)),
    "history_times": (wire.DT_INT64, (-1, -1)),
    "time": (wire.DT_INT64, (-1,)),
    "exclude_item_ids": (wire.DT_STRING, (-1, -1)),
    "k": (wire.DT_INT32, ()),
}


def signatures() -> bytes:
    """The reply of GetModelMetadata."""
    definitions = wire.SignatureDefMap()
    for name, (dtype, shape) in INPUTS.items():
        info = definitions.signature_def["recommend"].inputs[name]
        info.dtype = dtype
        for size in shape:
            info.tensor_shape.dim.add(size=size)
    reply = wire.GetModelMetadataResponse(model_spec=wire.ModelSpec(version=wire.Int64Value(value=1)))
    reply.metadata["signature_def"].value = definitions.SerializeToString()
    return reply.SerializeToString()


def answer(k: int) -> bytes:
    """The reply of Predict: k items with two tasks' scores."""
    reply = wire.PredictResponse(model_spec=wire.ModelSpec(version=wire.Int64Value(value=1)))
    ids = [f"{1_000_000 + place}".encode() for place in range(k)]
    reply.outputs["item_ids"].CopyFrom(encode(Tensor((1, k), ids), wire.DT_STRING))
    for name in ("scores", "score_bought", "score_quantity"):
        values = [1 / (place + 1) for place in range(k)]
        reply.outputs[name].CopyFrom(encode(Tensor((1, k), values), wire.DT_FLOAT))
    return reply.SerializeToString()


def serve(k: int, port: Any) -> None:
    """Answer everything with the same bytes."""
    replies = {"GetModelMetadata": signatures(), "Predict": answer(k)}
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(lambda request, context, reply=reply: reply)
        for name, reply in replies.items()
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", handlers),)
    )
    port.send(server.add_insecure_port("localhost:0"))
    server.start()
    server.wait_for_termination()


def microseconds(call: Callable[[], object]) -> float:
    """Median time of a call."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def request(history: int) -> tuple[list[tuple[str, int]], bytes]:
    """A history of so many events, and the request that the client makes of it."""
    events = [(f"{1_000_000 + 37 * place % 90_000}", 1_700_000_000 + 977 * place) for place in range(history)]
    message = wire.PredictRequest(model_spec=wire.ModelSpec(name="recommender", signature_name="recommend"))
    ids, times = [item.encode() for item, _ in events], [moment for _, moment in events]
    for name, tensor in {
        "user_id": Tensor((1,), [b"1364"]),
        "history_item_ids": Tensor((1, history), ids),
        "history_times": Tensor((1, history), times),
        "time": Tensor((1,), [0]),
        "exclude_item_ids": Tensor((1, 0), []),
        "k": Tensor((), [10]),
    }.items():
        message.inputs[name].CopyFrom(encode(tensor, INPUTS[name][0]))
    return events, message.SerializeToString()


def blocking(target: str, events: list[tuple[str, int]], raw: bytes, k: int) -> tuple[float, float]:
    """Microseconds a call: gRPC alone, and the client."""
    with Recommender(target) as client, grpc.insecure_channel(target, options=OPTIONS) as channel:
        bare = channel.unary_unary(PREDICT.path)
        alone = microseconds(lambda: bare(raw, timeout=2.0))
        return alone, microseconds(lambda: client.recommend("1364", events, k=k))


async def asynchronous(target: str, events: list[tuple[str, int]], raw: bytes, k: int) -> tuple[float, float, float]:
    """Microseconds a call: gRPC alone, the client, and the client with several calls under way."""

    async def median(call: Callable[[], Any]) -> float:
        for _ in range(WARM_UP):
            await call()
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            await call()
            times.append(time.perf_counter() - start)
        return 1e6 * statistics.median(times)

    async with AsyncRecommender(target) as client, grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        bare = channel.unary_unary(PREDICT.path)
        ours = await median(lambda: client.recommend("1364", events, k=k))
        alone = await median(lambda: bare(raw, timeout=2.0))

        async def several() -> None:
            for _ in range(CALLS // CONCURRENT):
                await client.recommend("1364", events, k=k)

        start = time.perf_counter()
        await asyncio.gather(*(several() for _ in range(CONCURRENT)))
        return alone, ours, 1e6 * (time.perf_counter() - start) / (CALLS // CONCURRENT * CONCURRENT)


def calls() -> None:
    """Time a call, by length of history and list."""
    print("\n| history | k | request | gRPC alone | Recommender | aio alone | AsyncRecommender | 16 at once, a call |")
    print("|---|---|---|---|---|---|---|---|")
    for history, k in ((0, 10), (50, 10), (500, 100)):
        receive, send = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(k, send), daemon=True)
        process.start()
        target = f"localhost:{receive.recv()}"
        events, raw = request(history)
        figures = [*blocking(target, events, raw, k), *asyncio.run(asynchronous(target, events, raw, k))]
        process.terminate()
        print(f"| {history} | {k} | {len(raw):,} B | {' | '.join(f'{figure:,.0f} µs' for figure in figures)} |")


def gzip() -> None:
    """What compressing a request or a reply saves, and below which bandwidth that pays."""
    print("\n| message | bytes | with gzip | packing and unpacking | pays below |")
    print("|---|---|---|---|---|")
    messages = {f"request, {n} events": request(n)[1] for n in (50, 500)} | {"reply, 100 items": answer(100)}
    for name, message in messages.items():
        packed = zlib.compress(message)
        seconds = 1e-6 * microseconds(lambda message=message: zlib.decompress(zlib.compress(message)))  # type: ignore[misc]
        bandwidth = 8 * (len(message) - len(packed)) / seconds / 1e6
        print(f"| {name} | {len(message):,} | {len(packed):,} | {1e6 * seconds:,.0f} µs | {bandwidth:,.0f} Mbit/s |")


def sizes() -> None:
    """Import time, and bytes of the wheel and of what it installs with."""
    programs: dict[str, list[tuple[float, float]]] = {"import twotower_client": [], "": []}
    for _ in range(10):
        for program, times in programs.items():
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", program], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times.append((time.perf_counter() - start, used))
    medians = [[statistics.median(column) for column in zip(*times, strict=True)] for times in programs.values()]
    wall, processor = (ours - bare for ours, bare in zip(*medians, strict=True))
    print(f"import twotower_client: {wall:.3f} s, {processor:.3f} s of processor time")
    source = Path(__file__).parents[1] / "serving" / "client"
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
        subprocess.run([*pip, "--wheel-dir", folder, str(source)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        print(f"wheel: {wheel.stat().st_size:,} B")
    total = 0
    for name in INSTALLED:
        files = metadata.files(name) or []
        # An editable installation lists a link; the sources are what a wheel installs.
        paths = [Path(str(file.locate())) for file in files]
        if name == "twotower-client":
            paths = list((source / "twotower_client").glob("*"))
        nbytes = sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")
        total += nbytes
        print(f"installed: {name} {metadata.version(name)}: {nbytes / 1e6:.1f} MB")
    print(f"installed: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    sizes()
    calls()
    gzip()
