// Hello over wasi:http 0.2 in C, with no library at all: what a C compiler and the canonical ABI are enough for.
//
// | path      | answer       |
// |-----------|--------------|
// | any       | the greeting |
//
// The declarations below are the part of wasi:http and wasi:io that is used, as the canonical ABI flattens it
// (https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md). `wit-bindgen c` writes them for
// a whole world; by hand they show what a call is. `build.mjs` makes the core module a component and checks each of them
// against the WIT: a wrong one does not build.

#include <stddef.h>
#include <stdint.h>

typedef int32_t handle;

#define IMPORT(interface, function) __attribute__((import_module(interface), import_name(function)))
#define HTTP "wasi:http/types@0.2.10"
#define STREAMS "wasi:io/streams@0.2.10"

IMPORT(HTTP, "[constructor]fields") handle fields_new(void);
IMPORT(HTTP, "[method]fields.append")
void fields_append(handle fields, const char *name, size_t name_length, const uint8_t *value, size_t value_length, void *out);
IMPORT(HTTP, "[constructor]outgoing-response") handle response_new(handle fields);
IMPORT(HTTP, "[method]outgoing-response.body") void response_body(handle response, void *out);
// result<outgoing-response, error-code>: the error's fields are flattened too, and are zero beside a response.
IMPORT(HTTP, "[static]response-outparam.set")
void response_outparam_set(handle outparam, int32_t is_error, handle response, int32_t, int64_t, int32_t, int32_t, int32_t, int32_t);
IMPORT(HTTP, "[method]outgoing-body.write") void body_write(handle body, void *out);
IMPORT(HTTP, "[static]outgoing-body.finish") void body_finish(handle body, int32_t has_trailers, handle trailers, void *out);
IMPORT(HTTP, "[resource-drop]incoming-request") void request_drop(handle request);
IMPORT(STREAMS, "[method]output-stream.blocking-write-and-flush")
void stream_write(handle stream, const char *bytes, size_t length, void *out);
IMPORT(STREAMS, "[resource-drop]output-stream") void stream_drop(handle stream);

// Where the host puts what it returns. `result<handle>` is a tag and, at offset 4, the handle. The largest is
// `result<_, error-code>`.
static union {
    struct {
        uint8_t is_error;
        handle value;
    } result;
    uint8_t bytes[64];
    uint64_t aligned;
} returned;

static handle take(void) {
    if (returned.result.is_error) {
        __builtin_trap(); // ends this request with a 502 and this instance
    }
    return returned.result.value;
}

// The host asks for memory when it passes strings and lists. Nothing that is called here returns one, and a component has
// to export it all the same.
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old, (void)old_size, (void)align, (void)size;
    __builtin_trap();
}

// What is global stays from one request to the next, for as long as the instance lives.
static uint32_t requests = 0;

static char *append(char *end, const char *text) {
    while (*text) {
        *end++ = *text++;
    }
    return end;
}

static char *append_number(char *end, uint32_t number) {
    char digits[10];
    size_t count = 0;
    do {
        digits[count++] = '0' + number % 10;
        number /= 10;
    } while (number);
    while (count) {
        *end++ = digits[--count];
    }
    return end;
}

__attribute__((export_name("wasi:http/incoming-handler@0.2.10#handle"))) void handle_request(handle request, handle outparam) {
    static const char TYPE[] = "content-type";
    static const char TEXT[] = "text/plain; charset=utf-8";
    char greeting[64];
    requests += 1;
    request_drop(request);

    char *end = append(greeting, "Hello from lattice, request ");
    end = append_number(end, requests);
    end = append(end, " on this instance\n");

    handle fields = fields_new();
    fields_append(fields, TYPE, sizeof TYPE - 1, (const uint8_t *)TEXT, sizeof TEXT - 1, &returned);
    handle response = response_new(fields);
    response_body(response, &returned);
    handle body = take();
    response_outparam_set(outparam, 0, response, 0, 0, 0, 0, 0, 0);
    body_write(body, &returned);
    handle stream = take();
    stream_write(stream, greeting, (size_t)(end - greeting), &returned);
    stream_drop(stream); // a child of the body: it must go before the body is finished
    body_finish(body, 0, 0, &returned);
}
