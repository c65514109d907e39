"""A gRPC server of grpcio: grpc_server.py <host>:<port>. /test.Echo/{Unary,Up,Down,Both} on raw bytes."""

import sys
from concurrent import futures

import grpc


def unary(request, context):
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
    context.set_trailing_metadata((("x-trailer", "end"),))
    return request


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Up": grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
    "Down": grpc.unary_stream_rpc_method_handler(lambda request, context: (request for _ in range(100))),
    "Both": grpc.stream_stream_rpc_method_handler(lambda requests, context: (request for request in requests)),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
