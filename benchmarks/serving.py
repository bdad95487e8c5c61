"""The model server under load: throughput, overhead, change of versions, overload, batching, a soak, a restart.

    python benchmarks/serving.py --out out/serving
    python benchmarks/serving.py --out out/serving --servable out/complete_journey/serving/recommender --soak 3600

Writes ``serving.json`` and ``serving.html``, a page of curves, into the folder ``--out``. The models are a trivial one
(a multiplication), a costly one (four layers of 1,024) and, with ``--servable``, the newest version in a folder that a
run pushed. Server and load share the machine's cores, in processes of their own.
"""

import argparse
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from twotower.serving.server.predict import predict
from twotower.serving.server.servable import Servable, register_scann_ops

HERE = Path(__file__).parent
CLIENTS = (1, 2, 4, 8, 16, 32)
SWAP_RATE = 200
WIDTH = 1024
HISTORY = 450
START_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Load:
    """What a load generator saw.

    Attributes:
        began, took: [n] seconds from its start, and of each request.
        statuses: name of a status to how many ended with it.
        seconds: how long it went on.
    """

    began: npt.NDArray[np.float64]
    took: npt.NDArray[np.float64]
    statuses: dict[str, int]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.statuses.get("OK", 0) / self.seconds

    def milliseconds(self, percentile: float) -> float:
        """Of the time that requests took."""
        return float(np.percentile(self.took, percentile) * 1e3)

    def row(self) -> dict[str, Any]:
        """Its figures."""
        return {
            "requests a second": round(self.rate),
            "p50 ms": round(self.milliseconds(50), 2),
            "p99 ms": round(self.milliseconds(99), 2),
            "not OK": sum(self.statuses.values()) - self.statuses.get("OK", 0),
        }


class Server:
    """A server in a process of its own.

    Args:
        command: that starts it; it prints a line that ends in its port.
    """

    def __init__(self, *command: str) -> None:
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        killer = threading.Timer(START_SECONDS, self._process.kill)
        killer.start()
        line = self._process.stdout.readline()
        killer.cancel()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise SystemExit(f"the server did not start: {' '.join(command)}")
        self.start_seconds = time.perf_counter() - began
        self.port = int(found[1])

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGTERM)

    def stop(self, number: signal.Signals) -> None:
        """Sends a signal and waits for the end."""
        self._process.send_signal(number)
        self._process.wait()

    def resident_mb(self) -> float:
        """Megabytes of memory that it has now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def ours(base: Path, *flags: str, port: int = 0) -> Server:
    """Our server on the versions under a folder, under the name ``bench``."""
    module = ["-m", "twotower.serving.server.main", f"--model_base_path={base}", "--model_name=bench"]
    return Server(*module, f"--port={port}", "--file_system_poll_wait_seconds=0.2", *flags)


def start_load(
    server: Server, request: Path, clients: int, seconds: float, rate: float = 0.0
) -> "subprocess.Popen[bytes]":
    """A load generator on a server; what it sees goes into a file beside the request."""
    command = [sys.executable, str(HERE / "load.py"), f"--target=localhost:{server.port}", f"--request={request}"]
    command += [f"--clients={clients}", f"--seconds={seconds}", f"--rate={rate}", f"--out={request}.json"]
    return subprocess.Popen(command)


def finish_load(process: "subprocess.Popen[bytes]", request: Path, seconds: float) -> Load:
    """What it saw."""
    if process.wait():
        raise SystemExit("the load generator failed")
    requests = json.loads(Path(f"{request}.json").read_text(encoding="utf-8"))
    return Load(
        np.array([began for began, _, _ in requests]),
        np.array([took for _, took, _ in requests]),
        dict(Counter(status for _, _, status in requests)),
        seconds,
    )


def load(server: Server, request: Path, clients: int, seconds: float, rate: float = 0.0) -> Load:
    """Puts load on a server and says what came of it."""
    return finish_load(start_load(server, request, clients, seconds, rate), request, seconds)


class Trivial(tf.Module):  # type: ignore[misc]
    """A multiplication."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def multiply(self, x: Any) -> dict[str, Any]:
        """x [n] to y [n]."""
        return {"y": 2 * x}


class Costly(tf.Module):  # type: ignore[misc]
    """Four dense layers, which a batch makes better use of than a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [tf.Variable(tf.random.normal([WIDTH, WIDTH]) / WIDTH) for _ in range(4)]

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], tf.float32, name="x")])
    def forward(self, x: Any) -> dict[str, Any]:
        """x [b, 1024] to y [b, 8]."""
        for layer in self.layers:
            x = tf.nn.relu(x @ layer)
        return {"y": x[:, :8]}


def write_request(path: Path, inputs: dict[str, Any], signature: str = "") -> Path:
    """A serialized request to the model ``bench``."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "bench", signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    path.write_bytes(request.SerializeToString())
    return path


def recommender_request(version: Path, path: Path) -> Path:
    """A request for a list of 20 from a history of 450 events, which are items that the model itself retrieves."""
    servable = Servable("bench", 1, str(version))
    retrieve = servable.signatures["retrieve"]
    inputs: dict[str, Any] = {}
    for alias, info in retrieve.definition.inputs.items():
        dtype = tf.dtypes.as_dtype(info.dtype)
        shape = [1 if size.size < 0 else size.size for size in info.tensor_shape.dim]
        inputs[alias] = np.full(shape, b"", object) if dtype == tf.string else np.zeros(shape, dtype.as_numpy_dtype)
    inputs["k"] = np.array(HISTORY, np.int32)
    [ids] = servable.run(retrieve, inputs, ["item_ids"], None)
    servable.close()
    now = int(time.time())
    inputs["history_item_ids"] = ids
    inputs["history_times"] = np.arange(now - HISTORY * 3600, now, 3600)[np.newaxis, :HISTORY]
    inputs["time"] = np.array([now])
    inputs["k"] = np.array(20, np.int32)
    return write_request(path, inputs, "recommend")


def throughput(base: Path, request: Path, seconds: float) -> list[dict[str, Any]]:
    """Requests a second of the trivial model against clients, ours and the rival's."""
    rows = []
    for name in ("ours", "rival"):
        rival = (str(HERE / "rival_server.py"), f"--version_path={base / '1'}")
        with ours(base) if name == "ours" else Server(*rival) as server:
            load(server, request, 4, 1.0)
            for clients in CLIENTS:
                rows.append({"server": name, "clients": clients, **load(server, request, clients, seconds).row()})
                print(rows[-1], flush=True)
    return rows


def in_process_milliseconds(version: Path, request: Path, seconds: float) -> npt.NDArray[np.float64]:
    """Of each call from the request's message to the reply's, without a server."""
    servable = Servable("bench", 1, str(version))
    message = predict_pb2.PredictRequest.FromString(request.read_bytes())
    took = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        predict(servable, message, None).SerializeToString()
        took.append(time.perf_counter() - began)
    servable.close()
    return np.array(took[len(took) // 5 :]) * 1e3


def overhead(name: str, base: Path, request: Path, seconds: float) -> dict[str, Any]:
    """One client's time beside that of the same call in the process, with nothing else going on."""
    inside = in_process_milliseconds(base / "1", request, seconds)
    with ours(base) as server:
        load(server, request, 1, 2.0)
        through = load(server, request, 1, seconds)
        start_seconds = server.start_seconds
    row = {
        "model": name,
        "in-process p50 ms": round(float(np.median(inside)), 3),
        "in-process p99 ms": round(float(np.percentile(inside, 99)), 3),
        "server p50 ms": round(through.milliseconds(50), 3),
        "server p99 ms": round(through.milliseconds(99), 3),
        "ratio of p50": round(through.milliseconds(50) / float(np.median(inside)), 2),
        "start s": round(start_seconds, 1),
    }
    print(row, flush=True)
    return row


def swap(name: str, base: Path, request: Path, rate: float, load_seconds: float) -> dict[str, Any]:
    """What clients notice when version 2 takes over from version 1, under a steady rate of requests."""
    with ours(base) as server:
        load(server, request, 8, 3.0, rate)
        shutil.copytree(base / "1", base / "2.partial")
        before = 10.0
        process = start_load(server, request, 8, before + load_seconds, rate)
        time.sleep(before)
        (base / "2.partial").rename(base / "2")
        seen = finish_load(process, request, before + load_seconds)
        shutil.rmtree(base / "2")
    # The load generator itself takes a moment to start: what began near the switch counts as during.
    early, late = seen.took[seen.began < before - 2], seen.took[seen.began >= before - 2]
    row = {
        "model": name,
        "requests a second": rate,
        "requests": len(seen.took),
        "failed": len(seen.took) - seen.statuses.get("OK", 0),
        "p99 before ms": round(float(np.percentile(early, 99) * 1e3), 2),
        "p99 during ms": round(float(np.percentile(late, 99) * 1e3), 2),
        "max during ms": round(float(late.max() * 1e3), 2),
        "ratio of p99": round(float(np.percentile(late, 99) / np.percentile(early, 99)), 2),
        "timeline": [
            [round(float(t), 3), round(float(s) * 1e3, 3)] for t, s in zip(seen.began, seen.took, strict=True)
        ],
    }
    print({key: value for key, value in row.items() if key != "timeline"}, flush=True)
    return row


def overload(base: Path, request: Path, seconds: float) -> list[dict[str, Any]]:
    """The costly model with more clients than may wait: what is answered, and how quickly the rest is refused."""
    rows = []
    with ours(base, "--max_queued_requests=16") as server:
        load(server, request, 4, 2.0)
        for clients in (8, 16, 32, 64, 128):
            before = server.resident_mb()
            seen = load(server, request, clients, seconds)
            rows.append(
                {"clients": clients, **seen.row(), "memory MB": round(server.resident_mb() - before), **seen.statuses}
            )
            print(rows[-1], flush=True)
    return rows


def batching(bases: dict[str, tuple[Path, Path]], folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Sixteen clients with and without batching across requests."""
    parameters = folder / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 64 } batch_timeout_micros { value: 0 } num_batch_threads { value: 2 }"
    )
    flags = ["--enable_batching", f"--batching_parameters_file={parameters}"]
    rows = []
    for name, (base, request) in bases.items():
        for label, extra in (("alone", []), ("batched", flags)):
            with ours(base, *extra) as server:
                load(server, request, 16, 1.0)
                rows.append({"model": name, "run": label, **load(server, request, 16, seconds).row()})
                print(rows[-1], flush=True)
    return rows


def soak(base: Path, request: Path, seconds: float, rate: float) -> dict[str, Any]:
    """Memory over time under a steady rate."""
    samples: list[tuple[float, float]] = []
    with ours(base) as server:
        load(server, request, 8, 3.0)
        process = start_load(server, request, 8, seconds, rate)
        done = threading.Event()

        def watch() -> None:
            began = time.perf_counter()
            while not done.wait(max(0.2, seconds / 300)):
                samples.append((time.perf_counter() - began, server.resident_mb()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        seen = finish_load(process, request, seconds)
        done.set()
        watcher.join()
    memory = np.array([megabytes for _, megabytes in samples])
    tenth = max(1, len(memory) // 10)
    row = {
        "seconds": seconds,
        "requests": len(seen.took),
        "not OK": len(seen.took) - seen.statuses.get("OK", 0),
        "p50 ms": round(seen.milliseconds(50), 2),
        "p99 ms": round(seen.milliseconds(99), 2),
        "memory MB, second tenth": round(float(memory[tenth : 2 * tenth].mean()), 1),
        "memory MB, last tenth": round(float(memory[-tenth:].mean()), 1),
        "timeline": [[round(t, 1), round(megabytes, 1)] for t, megabytes in samples],
    }
    print({key: value for key, value in row.items() if key != "timeline"}, flush=True)
    return row


def restart(name: str, base: Path, request: Path) -> dict[str, Any]:
    """kill -9, and the time until the server that is started at once has answered."""
    server = ours(base)
    load(server, request, 4, 1.0)
    port = server.port
    server.stop(signal.SIGKILL)
    with ours(base, port=port) as again:
        first = load(again, request, 1, 0.1)
        row = {
            "model": name,
            "seconds until it serves": round(again.start_seconds, 1),
            "first answer ms": round(float(first.took[0]) * 1e3, 1),
        }
    print(row, flush=True)
    return row


def drawn(plot: Any) -> str:
    """A figure as SVG, for the page."""
    buffer = io.StringIO()
    plot.savefig(buffer, format="svg", bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def charts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and SVG of each curve."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    result = []

    @contextmanager
    def figure(title: str, x: str, y: str, log: bool = False) -> Iterator[Any]:
        plot, axes = plt.subplots(figsize=(6.4, 3.4))
        yield axes
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if log:
            axes.set_yscale("log")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        axes.grid(alpha=0.3)
        result.append((title, drawn(plot)))
        plt.close(plot)

    for value in ("requests a second", "p99 ms"):
        with figure(f"Trivial model: {value}", "clients", value) as axes:
            for name in ("ours", "rival"):
                rows = [row for row in found["throughput"] if row["server"] == name]
                axes.plot([row["clients"] for row in rows], [row[value] for row in rows], "o-", label=name)
            axes.set_xscale("log", base=2)
    for row in found["swap"]:
        with figure(f"Change of versions: {row['model']}", "seconds", "ms", log=True) as axes:
            times = np.array(row["timeline"])
            axes.plot(times[:, 0], times[:, 1], ".", markersize=2)
    with figure("Soak: memory", "seconds", "MB") as axes:
        times = np.array(found["soak"]["timeline"])
        axes.plot(times[:, 0], times[:, 1])
        axes.set_ylim(0, times[:, 1].max() * 1.2)
    with figure("Overload: answered and refused", "clients", "requests in all") as axes:
        clients = [row["clients"] for row in found["overload"]]
        for status in ("OK", "RESOURCE_EXHAUSTED"):
            axes.plot(clients, [row.get(status, 0) for row in found["overload"]], "o-", label=status)
    return result


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The model server under load</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
td, th { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem }
.charts svg { width: 100%; height: auto } h3 { font-size: 1rem; margin: .5rem 0 }
</style></head><body>
<h1>The model server under load</h1>
<p>{{ about }}</p>
<div class="charts">{% for title, svg in charts %}<section><h3>{{ title }}</h3>{{ svg | safe }}</section>
{% endfor %}</div>
{% for name, rows in tables %}<h2>{{ name }}</h2><table><tr>{% for key in rows[0] %}<th>{{ key }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}</table>
{% endfor %}</body></html>
"""


def page(found: dict[str, Any]) -> str:
    """The page of curves and tables."""
    tables = []
    for name, rows in found.items():
        if name == "about":
            continue
        listed = rows if isinstance(rows, list) else [rows]
        keys = list(dict.fromkeys(key for row in listed for key in row if key != "timeline"))
        tables.append((name.capitalize(), [{key: row.get(key, "") for key in keys} for row in listed]))
    environment = jinja2.Environment(autoescape=True)
    return str(environment.from_string(PAGE).render(about=found["about"], charts=charts(found), tables=tables))


def by_number(version: Path) -> int:
    """A version's number."""
    return int(version.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--servable", type=Path, help="folder of a pushed recommender's versions")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
    parser.add_argument("--soak", type=float, default=60.0, help="seconds of the soak (default: 60)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    register_scann_ops()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trivial, costly = folder / "trivial", folder / "costly"
        tf.saved_model.save(module := Trivial(), str(trivial / "1"), signatures=module.multiply)
        tf.saved_model.save(layers := Costly(), str(costly / "1"), signatures=layers.forward)
        small = write_request(folder / "trivial.bin", {"x": np.ones(3, np.float32)})
        wide = write_request(folder / "costly.bin", {"x": np.ones((1, WIDTH), np.float32)})
        models = {"trivial": (trivial, small), "costly": (costly, wide)}
        if options.servable:
            newest = max(
                (path for path in options.servable.iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
            )
            shutil.copytree(newest, folder / "recommender" / "1")
            request = recommender_request(folder / "recommender" / "1", folder / "recommender.bin")
            models["recommender"] = (folder / "recommender", request)
        rates = {"trivial": SWAP_RATE, "recommender": 20}
        found = {
            "about": f"{os.cpu_count()} cores for server and load; load average {os.getloadavg()[0]:.1f} before.",
            "throughput": throughput(trivial, small, options.seconds),
            "overhead": [overhead(name, *model, options.seconds) for name, model in models.items()],
            "swap": [
                swap(name, *models[name], rate, 10.0 if name == "trivial" else 40.0)
                for name, rate in rates.items()
                if name in models
            ],
            "batching": batching({name: models[name] for name in ("trivial", "costly")}, folder, options.seconds),
            "overload": overload(costly, wide, options.seconds),
            "soak": soak(trivial, small, options.soak, SWAP_RATE),
            "restart": [restart(name, *model) for name, model in models.items() if name != "costly"],
        }
    (options.out / "serving.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (options.out / "serving.html").write_text(page(found), encoding="utf-8")
    print(f"{options.out / 'serving.html'}")


if __name__ == "__main__":
    main()
