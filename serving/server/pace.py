"""How quick a signature is: a quick one is run where its request was read, without a change of threads.

Handing a request to another thread and waking TensorFlow's own costs 50 to 100 us, which is several times what a small
model takes. A signature earns that shortcut: nothing in its graph may take any time it likes, and it was seen to be
quick. It loses it for good with one run that was not.
"""

import re
import threading
from typing import Any

from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2

QUICK_SECONDS = 300e-6
TOO_SLOW_SECONDS = 3e-3
PROBES = 9

# Operations that loop, wait for something, or call back into Python.
_UNBOUNDED = re.compile(
    r"While|^(Ref)?(Enter|NextIteration)$|Dequeue|Enqueue|TakeMany|TakeGradient|Accumulator|Barrier|PyFunc|Recv|Iterator"
    r"|Dataset|Batch(Function|$)|Unbatch|Stage|Rpc|MutexLock|Wait|ReadFile|Reader"
)


class Pace:
    """What a signature's runs take.

    Args:
        bounded: False where its graph may take any time, so that it is never quick.

    Attributes:
        quick: whether it is run where its request was read.
    """

    def __init__(self, bounded: bool) -> None:
        self._probing = threading.Lock()
        self._probes = 0 if bounded else PROBES
        self._best = float("inf")
        self.quick = False

    def begin_probe(self) -> bool:
        """Whether this run is to be measured, in its own thread; it is one run at a time, so that none disturbs it."""
        return self._probes < PROBES and self._probing.acquire(blocking=False)

    def end_probe(self, seconds: float) -> None:
        """Notes the seconds of a measured run; the best of them counts, since a busy machine makes others longer."""
        self._probes += 1
        if self._probes > 1:  # the first run builds the graph's executor, and says nothing
            self._best = min(self._best, seconds)
            if self._best > TOO_SLOW_SECONDS:
                self._probes = PROBES
        self.quick = self._probes == PROBES and self._best < QUICK_SECONDS
        self._probing.release()

    def took(self, seconds: float) -> None:
        """Notes the seconds of its thread's CPU time, which a busy machine leaves alone, of a run taken for quick."""
        if seconds > TOO_SLOW_SECONDS:
            self.quick = False


class Operations:
    """The operations of a SavedModel's graph, asked for whether a signature may take any time.

    Args:
        graph: as it was saved.
    """

    def __init__(self, graph: graph_pb2.GraphDef) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {function.signature.name: function for function in graph.library.function}
        self._unbounded: dict[str, bool] = {}

    def may_take_any_time(self, signature: meta_graph_pb2.SignatureDef) -> bool:
        """Whether what a signature computes holds an operation that may loop or wait."""
        pending = [info.name.partition(":")[0] for info in signature.outputs.values()]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            node = self._nodes.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if self._is_unbounded(node):
                return True
            pending += [source.lstrip("^").partition(":")[0] for source in node.input]
        return False

    def _is_unbounded(self, node: Any) -> bool:
        if _UNBOUNDED.search(node.op):
            return True
        called = {node.op}
        for value in node.attr.values():
            if value.HasField("func"):
                called.add(value.func.name)
            called.update(function.name for function in value.list.func)
        return any(self._function_is_unbounded(name) for name in called & self._functions.keys())

    def _function_is_unbounded(self, name: str) -> bool:
        known = self._unbounded.get(name)
        if known is None:
            self._unbounded[name] = True  # one that calls itself may do so for ever
            known = any(self._is_unbounded(node) for node in self._functions[name].node_def)
            self._unbounded[name] = known
        return known
