"""Submit a workload with nats-py and print the reply: put.py NATS_URL LATTICE SPEC.yaml"""

import asyncio
import sys

import nats


async def main(url: str, lattice: str, path: str) -> None:
    with open(path, "rb") as file:
        spec = file.read()
    connection = await nats.connect(url)
    try:
        reply = await connection.request(f"lattice.{lattice}.ctl.workload.put", spec, timeout=20)
        print(reply.data.decode())
    finally:
        await connection.close()


asyncio.run(main(*sys.argv[1:]))
