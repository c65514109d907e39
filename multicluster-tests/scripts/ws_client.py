"""A WebSocket client of the library `websockets`: ws_client.py <uri>. Goes through http_proxy if it is set."""

import asyncio
import os
import sys

from websockets.asyncio.client import connect


async def main():
    async with connect(sys.argv[1], proxy=os.environ.get("http_proxy")) as connection:
        for message in ["hello", b"\x00\xff" * 5000, "x" * 500_000]:
            await connection.send(message)
            assert await connection.recv() == message
        pong = await connection.ping()
        await asyncio.wait_for(pong, 10)
    assert connection.close_code == 1000, connection.close_code


asyncio.run(main())
print("websocket ok")
