// The same hello with the web's `fetch` event. Shorter, and **not fit for reuse**: the engine keeps one event for all the
// life of an instance, so the second request on an instance gets no answer from here ("respondWith can't be called
// twice") and the host answers 500, without any trap. A workload like this wants `reuse: off` in its spec; better, export
// `incomingHandler` as ../hello-js does. The lattice's tests use it to prove that a host notices.

let requests = 0;

addEventListener('fetch', (event) => {
  requests += 1;
  event.respondWith(new Response(`Hello from lattice, request ${requests} on this instance\n`));
});
