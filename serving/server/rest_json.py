"""JSON requests to arrays and back, by the rules of TensorFlow Serving's REST API.

`instances` is a list of rows, `inputs` holds whole tensors; `{"b64": ...}` is bytes.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from twotower.serving.server.errors import ServingError, invalid_argument

Arrays = dict[str, npt.NDArray[Any]]
Infos = Mapping[str, meta_graph_pb2.TensorInfo]

_SHOWN_CHARACTERS = 200
_INT64 = range(-(2**63), 2**63)


def parse(body: bytes) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        ServingError: INVALID_ARGUMENT, it is none.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid_argument(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except UnicodeDecodeError as error:
        raise invalid_argument(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    except RecursionError:
        raise invalid_argument("JSON Parse error: nested too deeply") from None
    except ValueError as error:  # an integer of too many digits
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The request's `signature_name`, empty where it has none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_inputs(document: Mapping[str, Any], infos: Infos) -> tuple[Arrays, bool]:
    """The inputs of a `:predict`, and whether they were given as rows.

    Args:
        document: the request.
        infos: alias to `TensorInfo` of the signature's inputs.

    Raises:
        ServingError: INVALID_ARGUMENT, the request does not fit the signature; it says where.
    """
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys"
            " to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid_argument(f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array")
        if not instances:
            raise invalid_argument(f"JSON Value: {_shown(document)} No values in 'instances' array")
        return _rows(instances, infos), True
    if "inputs" in document:
        return _tensors(document["inputs"], infos), False
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _rows(instances: list[Any], infos: Infos) -> Arrays:
    named = _is_named(instances[0])
    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per"
            " tensorinfo_map"
        )
    columns: dict[str, list[npt.NDArray[Any]]] = {}
    for row, instance in enumerate(instances):
        if named and not _is_named(instance):
            raise invalid_argument(f"Expecting object but got list at item {row} of input list")
        if not named and _is_named(instance):
            raise invalid_argument(f"Expecting value/list but got object at item {row} of input list")
        items = instance if named else {next(iter(infos)): instance}
        for name, value in items.items():
            where = f"Failed to process element: {row}" + (f" key: {name}" if named else "")
            if name not in infos:
                raise invalid_argument(
                    f"{where} of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input:"
                    f" {name}"
                )
            try:
                array = _array(value, infos[name].dtype)
                first = columns.setdefault(name, [])
                if first and first[0].size != array.size:
                    raise invalid_argument(f"Expecting tensor size: {first[0].size} but got: {array.size}")
                if first and first[0].shape != array.shape:
                    raise invalid_argument(f"Expecting shape {_shape(first[0])} but got: {_shape(array)}")
            except ServingError as error:
                raise invalid_argument(
                    f"{where} of 'instances' list. Error: {error.code.name}: {error.message}"
                ) from error
            first.append(array)
        if named and set(items) != set(infos):
            raise invalid_argument(
                f"Failed to process element: {row} of 'instances' list. JSON object: {_shown(instance)} keys must be"
                f" equal to: {','.join(sorted(infos))}"
            )
    return {name: np.stack(arrays) for name, arrays in columns.items()}


def _tensors(given: Any, infos: Infos) -> Arrays:
    if not _is_named(given):
        if len(infos) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per"
                " tensorinfo_map"
            )
        name, info = next(iter(infos.items()))
        return {name: _array(given, info.dtype)}
    arrays = {}
    for name, info in infos.items():
        if name not in given:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = _array(given[name], info.dtype)
    return arrays


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _array(value: Any, enum: int) -> npt.NDArray[Any]:
    """A value, or lists of lists of them, as an array of the dtype; the first element at each level says its length."""
    shape = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    leaves: list[Any] = []
    convert = _converter(enum)
    _collect(value, 0, shape, convert, leaves)
    dtype = tf.dtypes.as_dtype(enum).as_numpy_dtype
    array = np.empty(len(leaves), dtype)
    array[:] = leaves
    return array.reshape(shape)


def _collect(value: Any, level: int, shape: list[int], convert: Any, leaves: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at"
                f" level: {len(shape)}"
            )
        leaves.append(convert(value))
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        _collect(element, level + 1, shape, convert, leaves)


def _converter(enum: int) -> Any:
    dtype = tf.dtypes.as_dtype(enum)
    name = dtype.name

    def wrong(value: Any) -> ServingError:
        kind = {dict: "Object", list: "Array", str: "String", bool: str(value), type(None): "Null"}
        return invalid_argument(
            f"JSON Value: {_shown(value)} Type: {kind.get(type(value), 'Number')} is not of expected type: {name}"
        )

    if dtype == tf.string:

        def string(value: Any) -> bytes:
            if isinstance(value, dict):
                return _from_base64(value)
            if not isinstance(value, str):
                raise wrong(value)
            return value.encode()

        return string
    if dtype == tf.bool:

        def boolean(value: Any) -> bool:
            if not isinstance(value, bool):
                raise wrong(value)
            return value

        return boolean
    if dtype.is_integer:
        limits = range(dtype.min, dtype.max + 1)

        def integer(value: Any) -> int:
            if isinstance(value, bool) or not isinstance(value, int) or value not in limits:
                raise wrong(value)
            return value

        return integer
    if dtype.is_floating:
        largest = float(dtype.max)
        exact = 2 ** np.finfo(dtype.as_numpy_dtype).nmant * 2 - 1 if dtype != tf.bfloat16 else 2**8 - 1

        def decimal(value: Any) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise wrong(value)
            lossy = abs(value) > exact if isinstance(value, int) else math.isfinite(value) and abs(value) > largest
            if lossy:
                raise invalid_argument(
                    f"Cannot convert JSON value: {_shown(value)} to {name} without loss of precision."
                )
            return float(value)

        return decimal

    def unimplemented(value: Any) -> Any:
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Conversion of JSON Value: {_shown(value)} to type: {name}")

    return unimplemented


def _from_base64(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid_argument(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = value["b64"].rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error


def examples_input(document: Mapping[str, Any]) -> input_pb2.Input:
    """The examples of a `:classify` or `:regress`.

    Raises:
        ServingError: INVALID_ARGUMENT, they cannot be read; it says which feature.
    """
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {_shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid_argument(f"JSON Value: {_shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid_argument(f"JSON Value: {_shown(document)} 'examples' value is an empty array")
    given = input_pb2.Input()
    found = [_example(example) for example in examples]
    if "context" in document:
        given.example_list_with_context.context.CopyFrom(_example(document["context"]))
        given.example_list_with_context.examples.extend(found)
    else:
        given.example_list.examples.extend(found)
    return given


def _example(given: Any) -> tf.train.Example:
    if not isinstance(given, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {_shown(given)}")
    example = tf.train.Example()
    for name, content in given.items():
        feature = example.features.feature[name]
        for value in content if isinstance(content, list) else [content]:
            _add_to_feature(feature, name, value)
    return example


def _add_to_feature(feature: tf.train.Feature, name: str, value: Any) -> None:
    kind: str
    converted: bytes | int | float
    if isinstance(value, dict) and _is_base64(value):
        kind, converted = "bytes_list", _from_base64(value)
    elif isinstance(value, str):
        kind, converted = "bytes_list", value.encode()
    elif isinstance(value, int):
        kind, converted = "int64_list", int(value)
        if value not in _INT64:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif isinstance(value, float):
        kind, converted = "float_list", value
    else:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {_shown(value)}")
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {present.removesuffix('_list')}"
        )
    getattr(feature, kind).value.append(converted)


def predictions(aliases: Sequence[str], outputs: Sequence[npt.NDArray[Any]], as_rows: bool) -> bytes:
    """The reply of a `:predict`: `predictions`, a row each, or `outputs`, a tensor each; a single one is not named.

    Raises:
        ServingError: INVALID_ARGUMENT, rows are asked for and an output has none, or another number of them.
    """
    values = {alias: _plain(array, alias.endswith("_bytes")) for alias, array in zip(aliases, outputs, strict=True)}
    if not as_rows:
        return _dumped({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    count = -1
    for alias, array in zip(aliases, outputs, strict=True):
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if count not in (-1, len(array)):
            raise invalid_argument(f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {count}")
        count = len(array)
    if len(values) == 1:
        return _dumped({"predictions": next(iter(values.values()))})
    return _dumped({"predictions": [{alias: column[row] for alias, column in values.items()} for row in range(count)]})


def classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """The reply of a `:classify`: for each example, a list of label and score."""
    return _dumped(
        {
            "results": [
                [[entry.label, _shortest(entry.score)] for entry in example.classes]
                for example in result.classifications
            ]
        }
    )


def regressions(result: regression_pb2.RegressionResult) -> bytes:
    """The reply of a `:regress`: a value for each example."""
    return _dumped({"results": [_shortest(entry.value) for entry in result.regressions]})


def error_body(message: str) -> bytes:
    """The body of a reply that is an error."""
    return _dumped({"error": message})


def _plain(array: npt.NDArray[Any], as_bytes: bool) -> Any:
    flat: list[Any]
    if array.dtype.hasobject:
        convert = _to_base64 if as_bytes else _text
        flat = [convert(value) for value in array.ravel().tolist()]
    elif array.dtype.kind == "f" and array.dtype.itemsize < 8:
        flat = [_shortest(value) for value in array.ravel()]
    elif array.dtype.kind in "fiub":
        flat = array.ravel().tolist()
    else:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {array.dtype.name}")
    wrapped = np.empty(len(flat), np.object_)
    wrapped[:] = flat
    return wrapped.reshape(array.shape).tolist()


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _to_base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _shortest(value: Any) -> float:
    """The double that prints with the fewest digits that still mean this 32-bit float: 0.2, not 0.20000000298."""
    return float(str(np.float32(value)))


def _dumped(document: Any) -> bytes:
    # NaN and Infinity are no JSON, but what TensorFlow Serving sends.
    return json.dumps(document, ensure_ascii=False, indent=None).encode()


def _shape(array: npt.NDArray[Any]) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
