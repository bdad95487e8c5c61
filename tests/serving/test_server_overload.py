"""More than the server can do, and what is no request at all: quick refusals, proper codes, flat memory."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from server_harness import ServerProcess, predict_request, save_toy, times
from tensorflow_serving.apis import predict_pb2

MALFORMED = 10_000
GROWTH_BYTES = 32 * 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    base = tmp_path_factory.mktemp("toy")
    save_toy(base, 2)
    with ServerProcess(base, "--grpc_max_threads=2", "--max_queued_requests=6") as process:
        yield process


def resident_bytes(server: ServerProcess) -> int:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def test_one_request_too_many_is_refused_at_once_and_quick_ones_still_pass(server: ServerProcess) -> None:
    for _ in range(20):
        server.multiply([1.0])  # until it is known to be quick
    waiting = [server.predict.future(predict_request({"x": np.float32(0)}, "wait"), timeout=3) for _ in range(6)]
    time.sleep(0.5)
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as raised:
        server.predict(predict_request({"x": np.float32(0)}, "wait"), timeout=20)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert time.monotonic() - began < 1
    assert server.multiply([1.0]) == [2.0]
    for call in waiting:
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_what_nobody_waits_for_any_more_leaves_the_queue(server: ServerProcess) -> None:
    hopeless = [server.predict.future(predict_request({"x": np.float32(0)}, "wait"), timeout=0.3) for _ in range(5)]
    for call in hopeless:
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    reply = server.predict(
        predict_request({"words": np.array(["apple"], object), "k": np.int32(1)}, "lookup"), timeout=10
    )
    assert list(reply.outputs["ids"].int64_val) == [0]


def mutated(valid: bytes, chance: random.Random) -> bytes:
    """A valid request with a few bytes changed, taken out, doubled or cut off."""
    data = bytearray(valid)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(4)
        if kind == 0 and data:
            data[at] = chance.randrange(256)
        elif kind == 1 and data:
            del data[at : at + chance.randint(1, 8)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randint(1, 16)]
        else:
            data = data[:at]
    return bytes(data)


def misfit(valid: bytes, chance: random.Random) -> bytes:
    """A valid request with one thing in it that no server can mean: a dtype, a shape, a name, a number of values."""
    request = predict_pb2.PredictRequest.FromString(valid)
    alias = chance.choice(sorted(request.inputs))
    tensor = request.inputs[alias]
    kind = chance.randrange(8)
    if kind == 0:
        tensor.dtype = chance.randrange(1, 200)
    elif kind == 1:
        tensor.tensor_shape.dim.add(size=chance.choice([-1, 2**40, 2**62]))
    elif kind == 2:
        del request.inputs[alias]
    elif kind == 3:
        request.inputs[chance.choice(["", "z", "\u00e9"])].CopyFrom(tensor)
    elif kind == 4:
        request.output_filter.extend(chance.choice([["nothing"], ["y", "y"], [""]]))
    elif kind == 5:
        request.model_spec.signature_name = chance.choice(["nobody", "\0", "x" * 5000])
    elif kind == 6:
        tensor.tensor_content = chance.randbytes(chance.randrange(1, 30))
    else:
        request.model_spec.version.value = chance.choice([-1, 0, 7, 2**63 - 1])
    return bytes(request.SerializeToString())


def test_ten_thousand_malformed_requests_get_their_codes_and_leave_nothing_behind(server: ServerProcess) -> None:
    valid = [
        times([1.0, 2.0]).SerializeToString(),
        predict_request({"words": np.array(["apple", "x"], object), "k": np.int32(1)}, "lookup").SerializeToString(),
        predict_request({"text": np.array("t", object)}, "fail").SerializeToString(),
    ]
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    chance = random.Random(7)
    codes: Counter[str] = Counter()
    faults: list[str] = []

    def send(count: int) -> None:
        for _ in range(count):
            try:
                call(chance.choice([mutated, misfit])(chance.choice(valid), chance), timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
                if error.code() is grpc.StatusCode.INTERNAL and "deserializing" not in error.details():
                    faults.append(error.details())

    send(MALFORMED // 10)
    before = resident_bytes(server)
    threads = [threading.Thread(target=send, args=(MALFORMED * 9 // 40,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(codes.values()) == MALFORMED
    assert faults == []
    # A mutation may also leave a valid request, or one for another model, version or signature.
    assert set(codes) <= {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "INTERNAL",
        "UNIMPLEMENTED",
        "RESOURCE_EXHAUSTED",
    }
    assert codes["INVALID_ARGUMENT"] > MALFORMED // 10
    assert codes["INTERNAL"] > MALFORMED // 100
    assert server.multiply([1.0]) == [2.0]
    assert resident_bytes(server) - before < GROWTH_BYTES
    assert not any("a request failed inside the server" in line for line in server.log)
