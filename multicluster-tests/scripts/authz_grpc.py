"""An external authorizer over gRPC (envoy.service.auth.v3): authz_grpc.py <host>:<port>. Lets in `x-let: in`."""

import sys
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.rpc import status_pb2


def header(name, value):
    return base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value))


class Check(external_auth_pb2_grpc.AuthorizationServicer):
    def Check(self, request, context):
        http = request.attributes.request.http
        if http.headers.get("x-let") == "in":
            said = f"grpc {http.method} {http.path} {request.attributes.source.principal}"
            allowed = external_auth_pb2.OkHttpResponse(headers=[header("x-checked-by", said)])
            return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=0), ok_response=allowed)
        denied = external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=401), headers=[header("x-why", "list")], body="not on the list"
        )
        return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=7), denied_response=denied)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Check(), server)
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
