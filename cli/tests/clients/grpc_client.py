"""Calls guests/grpc-echo with grpcio. Its messages are read and written by hand, so that no compiler of protobuf is needed.

    grpc_client.py ADDRESS AUTHORITY [CA.pem]
"""
import queue
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

PATIENCE = 60


def varint(number):
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def encode(message):
    text, number = message
    text = text.encode()
    return (b"\x0a" + varint(len(text)) + text if text else b"") + (b"\x10" + varint(number) if number else b"")


def decode(data):
    def read(at):
        number = shift = 0
        while True:
            number |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                return number, at

    text, number, at = "", 0, 0
    while at < len(data):
        tag, at = read(at)
        if tag == 0x0A:
            length, at = read(at)
            text, at = data[at : at + length].decode(), at + length
        else:
            assert tag == 0x10, tag
            number, at = read(at)
    return text, number


def method(kind, name):
    return kind(f"/lattice.echo.v1.Echo/{name}", request_serializer=encode, response_deserializer=decode)


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("it did not fail")


def check(channel):
    say = method(channel.unary_unary, "Say")
    for text, number in [("hello", 1), ("", 0), ("ü" * 1_500_000, 7)]:
        assert say((text, number), timeout=PATIENCE) == (text, number)
    answer, call = say.with_call(("with", 0), timeout=PATIENCE)
    assert call.code() == grpc.StatusCode.OK and any(key == "lattice-node" for key, _ in call.initial_metadata())

    repeat = method(channel.unary_stream, "Repeat")
    assert list(repeat(("again", 1000), timeout=PATIENCE)) == [("again", number) for number in range(1000)]

    join = method(channel.stream_unary, "Join")
    parts = [(f"{number},", 0) for number in range(1000)]
    assert join(iter(parts), timeout=PATIENCE) == ("".join(text for text, _ in parts), 1000)

    # Each message is sent when the one before was answered: neither side waits for the other's end.
    chat = method(channel.stream_stream, "Chat")
    outgoing = queue.Queue()
    answers = chat(iter(outgoing.get, None), timeout=PATIENCE)
    for number in range(1, 50):
        outgoing.put(("ping", number))
        assert next(answers) == ("ping", number)
    outgoing.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK

    fail = method(channel.unary_unary, "Fail")
    expected = (grpc.StatusCode.NOT_FOUND, "100 % nö\n")
    assert failure(lambda: fail(("100 % nö\n", 5), timeout=PATIENCE)) == expected
    unknown = method(channel.unary_unary, "Unknown")
    assert failure(lambda: unknown(("", 0), timeout=PATIENCE))[0] == grpc.StatusCode.UNIMPLEMENTED

    # A call that ends early, by its time or by its caller, costs no other.
    waiting = chat(iter(queue.Queue().get, None), timeout=0.5)
    assert failure(lambda: next(waiting))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    cancelled = chat(iter(queue.Queue().get, None), timeout=PATIENCE)
    cancelled.cancel()
    assert cancelled.code() == grpc.StatusCode.CANCELLED
    with ThreadPoolExecutor(20) as pool:
        sent = [(f"call {number}", number) for number in range(200)]
        assert list(pool.map(lambda message: say(message, timeout=PATIENCE), sent)) == sent


def main(address, authority, ca=None):
    options = [("grpc.default_authority", authority), ("grpc.max_receive_message_length", 8 << 20)]
    if ca is None:
        channel = grpc.insecure_channel(address, options)
    else:
        options.append(("grpc.ssl_target_name_override", authority))
        with open(ca, "rb") as file:
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()), options)
    with channel:
        check(channel)


main(*sys.argv[1:])
