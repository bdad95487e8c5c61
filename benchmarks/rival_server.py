"""The server that one writes in an afternoon: grpcio's thread pool, `tf.saved_model.load`, eager signature calls.

The rival of benchmarks/serving.py. It serves one version of one model, and knows Predict alone.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version_path", type=Path, required=True, help="folder of the SavedModel")
    options = parser.parse_args()
    model = tf.saved_model.load(str(options.version_path))

    def predict(request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:
        signature = model.signatures[request.model_spec.signature_name or "serving_default"]
        inputs = {alias: tf.constant(tf.make_ndarray(tensor)) for alias, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for alias, output in signature(**inputs).items():
            response.outputs[alias].CopyFrom(tf.make_tensor_proto(output.numpy()))
        return response

    server = grpc.server(ThreadPoolExecutor(4 * (os.cpu_count() or 1)))
    method = grpc.unary_unary_rpc_method_handler(
        predict, predict_pb2.PredictRequest.FromString, predict_pb2.PredictResponse.SerializeToString
    )
    service = "tensorflow.serving.PredictionService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Predict": method}),))
    port = server.add_insecure_port("localhost:0")
    server.start()
    print(f"serving on localhost:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
