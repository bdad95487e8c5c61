"""What the server counts, as a page that Prometheus reads.

Names, labels and buckets are TensorFlow Serving's, so that its dashboards work. Its counters carry no `_total`, which
`prometheus_client` would add: hence the text format is written here.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable

# TensorFlow Serving's: 10 us times 1.8 to the power of 0 to 32.
BOUNDS_MICROS = [10 * 1.8**power for power in range(33)]
_LE = [f"{bound:g}" for bound in BOUNDS_MICROS]

Labels = tuple[str, ...]


class _Metric:
    """What all metrics are given.

    Args:
        name, text: of the metric.
        labels: names of its labels.
    """

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._lock = threading.Lock()


class Counter(_Metric):
    """A number for each combination of labels that only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        super().__init__(name, text, labels)
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Adds to the number of these labels' values."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def lines(self) -> Iterable[str]:
        """Its samples."""
        with self._lock:
            values = dict(self._values)
        for labels, value in sorted(values.items()):
            yield f"{self.name}{_braced(self.labels, labels)} {value:.17g}"


class Gauge(Counter):
    """A number for each combination of labels that goes up and down."""

    kind = "gauge"

    def set(self, *labels: str, value: float) -> None:
        """Replaces the number of these labels' values."""
        with self._lock:
            self._values[labels] = value


class Histogram(_Metric):
    """How many observations, in microseconds, fell below each of TensorFlow Serving's bounds."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        super().__init__(name, text, labels)
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, *labels: str, seconds: float) -> None:
        """Counts one observation."""
        self.observe_all((labels, seconds))

    def observe_all(self, *observations: tuple[Labels, float]) -> None:
        """Counts several observations, each its labels' values and its seconds."""
        with self._lock:
            for labels, seconds in observations:
                micros = seconds * 1e6
                series = self._series.get(labels)
                if series is None:
                    series = self._series[labels] = ([0] * (len(BOUNDS_MICROS) + 1), [0.0])
                series[0][bisect_left(BOUNDS_MICROS, micros)] += 1
                series[1][0] += micros

    def lines(self) -> Iterable[str]:
        """Its samples."""
        with self._lock:
            series = {labels: (list(counts), total[0]) for labels, (counts, total) in self._series.items()}
        for labels, (counts, total) in sorted(series.items()):
            below = 0
            for bound, count in zip([*_LE, "+Inf"], counts, strict=True):
                below += count
                yield f"{self.name}_bucket{_braced((*self.labels, 'le'), (*labels, bound))} {below}"
            yield f"{self.name}_sum{_braced(self.labels, labels)} {total:.17g}"
            yield f"{self.name}_count{_braced(self.labels, labels)} {below}"


class Metrics:
    """All that a server counts."""

    def __init__(self) -> None:
        self.request_count = Counter(
            ":tensorflow:serving:request_count", "The total number of requests.", ("model_name", "status")
        )
        self.request_latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for TensorFlow Serving requests.",
            ("model_name", "API", "entrypoint"),
        )
        self.runtime_latency = Histogram(
            ":tensorflow:serving:runtime_latency",
            "Distribution of wall time (in microseconds) for the TensorFlow runtime.",
            ("model_name", "API", "runtime"),
        )
        self.load_attempts = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of times a SavedModel was requested to be loaded.",
            ("model_path", "status"),
        )
        self.load_latency = Counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Latency in microseconds for SavedModels that were successfully loaded.",
            ("model_path",),
        )
        self.stage_latency = Histogram(
            ":twotower:serving:stage_latency",
            "Distribution of wall time (in microseconds) of a request's stages: queue, parse, run, reply.",
            ("model_name", "stage"),
        )
        self.pending = Gauge(":twotower:serving:pending_requests", "Inference requests that wait or run.", ())
        self.refused = Counter(
            ":twotower:serving:refused_request_count", "Requests refused because too many were waiting.", ()
        )
        self.logged = Counter(
            ":twotower:serving:logged_request_count",
            "Sampled requests, written to the log or dropped because the disk was too slow.",
            ("model_name", "outcome"),
        )

    def page(self) -> str:
        """The text that Prometheus reads."""
        lines: list[str] = []
        for metric in vars(self).values():
            samples = list(metric.lines())
            if samples:
                lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}", *samples]
        return "\n".join(lines) + "\n"


def _braced(names: Labels, values: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
