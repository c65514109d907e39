"""A gRPC client of grpcio: grpc_client.py <target>. Uses http_proxy, as a workload's clients do."""

import sys

import grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    unary = channel.unary_unary("/test.Echo/Unary")
    reply, call = unary.with_call(b"hello", timeout=20)
    assert reply == b"hello" and dict(call.trailing_metadata())["x-trailer"] == "end", call
    try:
        unary(b"fail", timeout=20)
        raise AssertionError("a failure is a success")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and error.details() == "as you wish", error
    parts = [bytes([part]) * 1000 for part in range(100)]
    assert channel.stream_unary("/test.Echo/Up")(iter(parts), timeout=20) == b"".join(parts)
    assert list(channel.unary_stream("/test.Echo/Down")(b"x" * 1000, timeout=20)) == [b"x" * 1000] * 100
    assert list(channel.stream_stream("/test.Echo/Both")(iter(parts), timeout=20)) == parts
    large = b"y" * 3_000_000
    assert unary(large, timeout=20) == large
    calls = [unary.future(str(number).encode(), timeout=20) for number in range(200)]
    assert [call.result() for call in calls] == [str(number).encode() for number in range(200)]
print("grpc ok")
