"""Hello over wasi:http 0.3 in Python.

| path        | answer                                |
|-------------|---------------------------------------|
| `/env/NAME` | the environment variable NAME, or 404 |
| any other   | the greeting                          |

`componentize-py -d ../wit/0.3 -w hello-python bindings .` writes the modules imported here, for an editor to look into.
The top level runs once, when the component is built: what it computes is stored in the component.
"""

import componentize_py_async_support
import wit_world
from componentize_py_async_support.streams import ByteStreamWriter
from componentize_py_types import Ok, Result
from wit_world import exports
from wit_world.imports import environment
from wit_world.imports.wasi_http_types import ErrorCode, Fields, Request, Response

requests = 0


class Handler(exports.Handler):
    async def handle(self, request: Request) -> Response:
        global requests
        requests += 1
        path = (request.get_path_with_query() or "").split("?")[0]
        print(f"request {requests}: {path}")
        status, text = answer(path)
        return respond(status, text.encode())


def answer(path: str) -> tuple[int, str]:
    if not path.startswith("/env/"):
        return 200, f"Hello from lattice, request {requests} on this instance\n"
    name = path.removeprefix("/env/")
    value = dict(environment.get_environment()).get(name)
    return (404, f"no environment variable {name}\n") if value is None else (200, f"{value}\n")


def respond(status: int, body: bytes) -> Response:
    writer, reader = wit_world.byte_stream()
    # Spawned: the head goes out first, and the body follows when the caller takes it.
    componentize_py_async_support.spawn(write(writer, body))
    fields = Fields.from_list(
        [("content-type", b"text/plain; charset=utf-8"), ("content-length", str(len(body)).encode())]
    )
    response, _sent = Response.new(fields, reader, no_trailers())
    response.set_status_code(status)
    return response


async def write(writer: ByteStreamWriter, body: bytes) -> None:
    with writer:
        await writer.write_all(body)


def no_trailers():
    """A future of "no trailers". The generated name spells out the type: future<result<option<fields>, error-code>>."""
    _writer, reader = wit_world.result_option_wasi_http_types_fields_wasi_http_types_error_code_future(lambda: Ok(None))
    return reader
