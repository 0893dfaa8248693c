"""Asks guests/echo through one node with HTTP clients that people use: requests, httpx and websockets.

    http_clients.py PLAIN_ADDRESS TLS_ADDRESS CA.pem

The workload answers the host `localhost`.
"""
import asyncio
import http.client
import ssl
import sys

import httpx
import requests
import websockets
from websockets.sync.client import connect

PATTERN = bytes(number % 251 for number in range(251)) * 8000
MEGABYTE = PATTERN[:1_000_000]


def pieces():
    for at in range(0, len(MEGABYTE), 33_333):
        yield MEGABYTE[at : at + 33_333]


def counted(data):
    return f"{len(data)} {sum(data) % 2**32}\n"


def with_requests(url, ca):
    with requests.Session() as session:
        session.trust_env = False  # neither proxies nor authorities of the developer's own
        session.verify = ca
        session.headers["host"] = "localhost"
        for _ in range(20):
            assert session.get(f"{url}/bytes/1000").content == PATTERN[:1000]
        assert session.get(f"{url}/bytes/1000000").content == MEGABYTE
        assert session.post(f"{url}/count", data=MEGABYTE).text == counted(MEGABYTE)
        assert session.post(f"{url}/count", data=pieces()).text == counted(MEGABYTE)
        head = session.head(f"{url}/bytes/1000")
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "1000", b"")
        streamed = session.get(f"{url}/bytes/1000000", stream=True)
        assert b"".join(streamed.iter_content(7777)) == MEGABYTE
        seen = session.get(f"{url}/headers?a=1&b=%20", headers={"x-forwarded-proto": "forged"})
        assert f"x-forwarded-proto: {url.split(':')[0]}\n" in seen.text and seen.headers["x-path"].endswith("?a=1&b=%20")
        for method in ["PUT", "PATCH", "DELETE", "OPTIONS", "MADE-UP"]:
            assert session.request(method, f"{url}/headers").headers["x-method"] == method
        missing = session.get(f"{url}/", headers={"host": "nobody.test"})
        expected = (421, "misdirected") if url.startswith("https") else (404, "no-route")
        assert (missing.status_code, missing.headers["lattice-error"]) == expected
        assert session.get(f"{url}/a/%2e%2e/b").status_code in (200, 400)  # some versions resolve it themselves


async def with_httpx(url, ca, http1, version):
    context = ssl.create_default_context(cafile=ca)
    limits = httpx.Limits(max_connections=2)
    options = {"verify": context, "limits": limits, "timeout": 60, "trust_env": False}
    async with httpx.AsyncClient(http1=http1, http2=True, **options) as client:
        answer = await client.get(f"{url}/bytes/1000")
        assert (answer.http_version, answer.content) == (version, PATTERN[:1000]), answer.http_version
        many = await asyncio.gather(*(client.post(f"{url}/count", content=MEGABYTE[:number]) for number in range(100)))
        assert [answer.text for answer in many] == [counted(MEGABYTE[:number]) for number in range(100)]

        async def upload():
            for piece in pieces():
                yield piece

        # The answer comes while the request is sent: an echo.
        async with client.stream("POST", f"{url}/", content=upload()) as answer:
            assert b"".join([piece async for piece in answer.aiter_bytes()]) == MEGABYTE
        # One that is dropped half way does not stop the others.
        async with client.stream("GET", f"{url}/bytes/1000000000") as answer:
            async for piece in answer.aiter_bytes():
                break
        assert (await client.get(f"{url}/bytes/10")).content == PATTERN[:10]


def with_websockets(address, url, ca):
    context = ssl.create_default_context(cafile=ca) if url.startswith("wss") else None
    try:
        connect(f"{url}/chat", ssl=context, proxy=None)
    except websockets.exceptions.InvalidStatus as error:
        assert error.response.status_code == 501 and error.response.headers["lattice-error"] == "not-implemented"
    else:
        raise AssertionError("there was a WebSocket")


def with_the_standard_library(address):
    """One connection: an upgrade that is refused, HTTP/1.0, and what came before and after."""
    connection = http.client.HTTPConnection(address, timeout=60)
    for headers, status in [({}, 200), ({"connection": "upgrade", "upgrade": "websocket"}, 501), ({}, 200)]:
        connection.request("GET", "/bytes/10", headers={"host": "localhost", **headers})
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.will_close) == (status, False)
    connection.close()


def main(plain, tls, ca):
    port = tls.rsplit(":", 1)[1]
    with_requests(f"http://{plain}", ca)
    with_requests(f"https://localhost:{port}", ca)
    plain_port = plain.rsplit(":", 1)[1]
    asyncio.run(with_httpx(f"http://localhost:{plain_port}", ca, False, "HTTP/2"))
    asyncio.run(with_httpx(f"https://localhost:{port}", ca, True, "HTTP/2"))
    with_websockets(plain, f"ws://localhost:{plain_port}", ca)
    with_websockets(tls, f"wss://localhost:{port}", ca)
    with_the_standard_library(plain)


main(*sys.argv[1:])
