"""The one exception that reaches a caller as a gRPC status, with TensorFlow Serving's own messages."""

from typing import Any

import grpc

MAX_MESSAGE_BYTES = 1024

_STATUS_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A request, or the load of a version, that failed with a gRPC status.

    Args:
        code: the status; TensorFlow's error codes are the same numbers.
        message: what the caller reads, in full; `truncated` cuts it when it is sent.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def number(self) -> int:
        """The status as the integer that `tensorflow.serving.StatusProto.error_code` holds."""
        return int(self.code.value[0])


class StartupError(Exception):
    """The server cannot start; its message is the one line that the operator reads."""


def invalid_argument(message: str) -> ServingError:
    """The request is wrong, whatever the state of the server."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """The request names a model, a version or a file that is not there."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def servable_not_found(model: str, version: int | None) -> ServingError:
    """No such version of a model can be asked for; None means the newest."""
    wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
    return not_found(f"Servable not found for request: {wanted}")


def unrecognized_label(label: str) -> ServingError:
    """No version of the model has the label."""
    return invalid_argument(f"Unrecognized servable version label: {label}")


def unknown(message: str) -> ServingError:
    """What is asked for failed for a reason that has no code of its own."""
    return ServingError(grpc.StatusCode.UNKNOWN, message)


def from_op_error(error: Any) -> ServingError:
    """The status of a `tf.errors.OpError`: same code, same message."""
    return ServingError(_STATUS_BY_NUMBER.get(error.error_code, grpc.StatusCode.UNKNOWN), str(error.message))


def truncated(message: str) -> str:
    """The message as TensorFlow Serving sends it: at most 1024 bytes, then `...TRUNCATED`."""
    encoded = message.encode()
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return message
    return encoded[:MAX_MESSAGE_BYTES].decode(errors="ignore") + "...TRUNCATED"
