// Hello over wasi:http 0.2 in JavaScript.
//
// | path        | answer                                |
// |-------------|---------------------------------------|
// | `/env/NAME` | the environment variable NAME, or 404 |
// | any other   | the greeting                          |
//
// This component exports `incomingHandler` itself, so one instance answers many requests. The shorter way, a listener for
// `fetch` events, answers one request an instance and fails on the next: see ../hello-js-fetch.

import { getEnvironment } from 'wasi:cli/environment@0.2.10';
import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@0.2.10';

const encoder = new TextEncoder();
/** wasi:io lets one call of `blocking-write-and-flush` take no more. */
const WRITE_BYTES_MAX = 4096;

// The top level runs once, when the component is built: what it computes is stored in the component. No clock, no random
// number and no environment here, they would be those of the build.
let requests = 0;

export const incomingHandler = {
  handle(request, responseOut) {
    requests += 1;
    const path = (request.pathWithQuery() ?? '').split('?')[0];
    dispose(request);
    console.log(`request ${requests}: ${path}`);
    const [status, text] = answer(path);
    respond(responseOut, status, text);
  },
};

function answer(path) {
  if (!path.startsWith('/env/')) {
    return [200, `Hello from lattice, request ${requests} on this instance\n`];
  }
  const name = path.slice('/env/'.length);
  const entry = getEnvironment().find(([key]) => key === name);
  return entry ? [200, `${entry[1]}\n`] : [404, `no environment variable ${name}\n`];
}

function respond(responseOut, status, text) {
  const bytes = encoder.encode(text);
  const response = new OutgoingResponse(
    Fields.fromList([
      ['content-type', encoder.encode('text/plain; charset=utf-8')],
      ['content-length', encoder.encode(String(bytes.length))],
    ]),
  );
  response.setStatusCode(status);
  const body = response.body();
  ResponseOutparam.set(responseOut, { tag: 'ok', val: response });
  const stream = body.write();
  for (let start = 0; start < bytes.length; start += WRITE_BYTES_MAX) {
    stream.blockingWriteAndFlush(bytes.subarray(start, start + WRITE_BYTES_MAX));
  }
  dispose(stream); // a child of the body: it must go before the body is finished
  OutgoingBody.finish(body, undefined);
}

// Handles of the host are not garbage collected in time: whoever holds one gives it back.
function dispose(handle) {
  handle[Symbol.dispose]();
}
