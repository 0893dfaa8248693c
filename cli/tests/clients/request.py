"""One HTTP exchange with a node, over NATS and without a router, as docs/protocol-http.md has it:
request.py NATS_URL LATTICE NODE WORKLOAD METHOD AUTHORITY PATH < BODY
Prints status, headers and trailers as a line of JSON, then the body."""

import asyncio
import json
import struct
import sys

import nats

REQUEST, RESPONSE, DATA, CREDIT, RESET, PING = range(1, 7)
END, TRAILERS = 1, 2
INLINE = CHUNK = 64 * 1024
WINDOW = 256 * 1024
IDLE = 15


def string(text: bytes | str) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">H", len(raw)) + raw


def headers(pairs: list[tuple[str, str]]) -> bytes:
    return struct.pack(">H", len(pairs)) + b"".join(string(name) + string(value) for name, value in pairs)


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        self.at += length
        assert self.at <= len(self.data), "the frame ends inside a field"
        return self.data[self.at - length : self.at]

    def number(self, form: str) -> int:
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return self.take(self.number("H")).decode("latin-1")

    def headers(self) -> list[tuple[str, str]]:
        return [(self.string(), self.string()) for _ in range(self.number("H"))]

    def chunk(self, flags: int) -> tuple[bytes, list[tuple[str, str]] | None]:
        chunk = self.take(self.number("I"))
        return chunk, self.headers() if flags & TRAILERS else None


class Exchange:
    def __init__(self, connection: nats.NATS, subject: str, reply: str) -> None:
        self.connection, self.subject, self.reply = connection, subject, reply
        self.next_out = self.next_in = 0

    async def send(self, kind: int, flags: int, rest: bytes) -> None:
        head = struct.pack(">BBBI", 1, kind, flags, self.next_out)
        self.next_out += 1
        await self.connection.publish(self.subject, head + rest, reply=self.reply)

    def receive(self, message: nats.aio.msg.Msg) -> tuple[int, int, Reader]:
        assert (message.headers or {}).get("Status") != "503", "the node is not there"
        reader = Reader(message.data)
        version, kind, flags, sequence = (reader.number(form) for form in "BBBI")
        assert version == 1, f"version {version}"
        if kind == RESET:
            code, retry_after, why = reader.number("B"), reader.number("I"), reader.string()
            raise SystemExit(f"reset {code}, flags {flags}, retry after {retry_after} ms: {why}")
        assert sequence == self.next_in, f"frame {sequence} came where {self.next_in} was due"
        self.next_in += 1
        return kind, flags, reader


async def main(url: str, lattice: str, node: str, workload: str, method: str, authority: str, path: str) -> None:
    body = sys.stdin.buffer.read()
    connection = await nats.connect(url)
    reply = connection.new_inbox()
    inbox = await connection.subscribe(reply)
    exchange = Exchange(connection, f"lattice.{lattice}.http.{node}", reply)

    first, body = body[:INLINE], body[INLINE:]
    names = b"".join(map(string, [workload, method, "http", authority, path]))
    head = struct.pack(">II", WINDOW, 30_000) + names + headers([("host", authority), ("x-from", "python")])
    await exchange.send(REQUEST, 0 if body else END, head + struct.pack(">I", len(first)) + first)

    leave = consumed = 0
    meta, answer, over = {}, [], False
    while not over:
        kind, flags, reader = exchange.receive(await inbox.next_msg(timeout=IDLE))
        if kind == CREDIT:
            leave += reader.number("I")
        elif kind in (RESPONSE, DATA):
            if kind == RESPONSE:
                leave += reader.number("I")
                meta = {"status": reader.number("H"), "headers": reader.headers()}
            chunk, trailers = reader.chunk(flags)
            answer.append(chunk)
            consumed += len(chunk)
            over = bool(flags & END)
            meta["trailers"] = trailers
        else:
            assert kind == PING, f"kind {kind}"
        assert reader.at == len(reader.data), "bytes after the last field"
        if consumed >= WINDOW // 2 and not over:
            await exchange.send(CREDIT, 0, struct.pack(">I", consumed))
            consumed = 0
        while body and leave and not over:
            size = min(CHUNK, leave)
            part, body = body[:size], body[size:]
            leave -= len(part)
            await exchange.send(DATA, 0 if body else END, struct.pack(">I", len(part)) + part)
    print(json.dumps(meta), flush=True)
    sys.stdout.buffer.write(b"".join(answer))
    sys.stdout.buffer.flush()
    await connection.close()


asyncio.run(main(*sys.argv[1:]))
