/* extension_api.h - the contract between extension-host and an extension, version 1.0.
 *
 * An extension is one shared library that exports one data symbol, `extension_entry_v1` (see "The entry" at the end).
 * The host calls the extension through its *hooks*; the extension calls the host through *callbacks*, a table that it is
 * handed in `create`. Nothing else is linked: the library needs no symbol of the host.
 *
 * How it stays compatible
 *   - What is released never changes: no name, layout, number, owner, lifetime or thread. New things are added at the end.
 *   - Every table and every struct that may grow begins with `struct_size`: the size that its writer knew. What lies beyond
 *     it reads as absent (zero). Set it with sizeof. (0 in a struct that an extension hands over stands for the size that the
 *     struct has in 1.0.)
 *   - Unknown numbers (a status, a flag, a level) are to be expected: treat an unknown status as failure.
 *   - Larger features come through `get_interface(id)`.
 *
 * How a build is loaded
 *   - Before the host loads a build, a process of its own tries it: it runs the library's initialisers, `create`, `stop` and
 *     `destroy`, each once and without a request, and is killed. A build that ends or hangs that process is refused. `create`
 *     then runs once more, in the host. So it must leave nothing behind that keeps it from working again; outgoing calls
 *     that it makes fail there, as they do while the host starts.
 *   - A build that replaces another one is loaded beside it, into the same process. Each build that is loaded has its own
 *     statics. (C++ by GCC: build with -fno-gnu-unique, or those of inline functions and templates are shared by all builds.)
 *
 * Words used below
 *   worker    one of the host's event-loop threads. Each request belongs to one worker for its whole life.
 *   any       may be called from every thread, threads of the extension's own included.
 *   lent      the memory stays the giver's; valid until the time that is named.
 *   given     the memory becomes the receiver's, who releases it exactly once.
 *
 * What is not the extension's
 *   The process is the host's, and every other extension's. From its initialisers to `destroy` an extension leaves as it is:
 *   - how a signal is taken, which signals a thread of the host's blocks, and its alternate stack;
 *   - timers that send signals (`setitimer`, `alarm`, `timer_create`);
 *   - the working directory and the root directory;
 *   - the umask;
 *   - the environment: `setenv` frees what another thread's `getenv` has just found;
 *   - limits of resources (`setrlimit`);
 *   - descriptors that it has not opened, 0, 1 and 2 among them;
 *   - the locale (`setlocale`);
 *   - how the host's threads compute: rounding, and numbers near zero, which a library that is linked with `-ffast-math`
 *     changes;
 *   - the priority of the host's threads, and which processors they run on;
 *   - who the process is: its users, groups, capabilities, session, namespaces and name, and what `prctl` sets;
 *   and it leaves nothing behind:
 *   - descriptors that it has opened are closed when `destroy` returns, and each is opened with `O_CLOEXEC`;
 *   - child processes have ended and been waited for;
 *   - nothing is printed to the standard output;
 *   - functions that run at the end of the process (`atexit`, destructors) return soon.
 *
 * Nothing may be thrown or unwound through a function of this header, in either direction.
 */
#ifndef EXTENSION_API_H
#define EXTENSION_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EXT_ABI_MAJOR 1u
#define EXT_ABI_MINOR 0u

/* ---- Status -------------------------------------------------------------------------------------------------------- */

typedef int32_t ext_status;

#define EXT_OK 0            /* done */
#define EXT_END 1           /* a stream is at its end: there is no further chunk */
#define EXT_ABSENT 2        /* no such header, variable or interface */
#define EXT_CANCELLED 3     /* the request ended, the operation was cancelled, or the extension is being stopped */
#define EXT_GONE (-1)       /* the handle's time is over: finished, released, or the client has left */
#define EXT_ANSWERED (-2)   /* the request has been answered before; this answer was discarded */
#define EXT_BUSY (-3)       /* an operation of this kind is under way on this handle; await its completion first */
#define EXT_INVALID (-4)    /* an argument breaks the rules of the function; the host's log says which */
#define EXT_UNDECLARED (-5) /* the variable is not declared under [env] in extension.toml */
#define EXT_DENIED (-6)     /* the target is not allowed under [fetch] in extension.toml */
#define EXT_TOO_LARGE (-7)  /* the request's body is over the limit; the host answers 413 if nobody else does */
#define EXT_BROKEN (-8)     /* the connection broke off before its message was whole */
#define EXT_RESOLVE (-9)    /* fetch: the host name cannot be resolved */
#define EXT_CONNECT (-10)   /* fetch: no connection could be made */
#define EXT_TLS (-11)       /* fetch: the TLS handshake failed */
#define EXT_TIMEOUT (-12)   /* fetch: a time limit passed */
#define EXT_FAILED (-13)    /* a hook failed, or a failure that has no status of its own */
#define EXT_STAGE (-14)     /* not possible at this stage: for example `route` after `create` has returned */

/* ---- Data ---------------------------------------------------------------------------------------------------------- */

/* Lent bytes. `ptr` may be anything where `len` is 0; NULL there means "absent" where absence is possible.
 * Text is not terminated by a zero. */
typedef struct ext_slice {
    const uint8_t *ptr;
    size_t len;
} ext_slice;

/* Given bytes: they travel without being copied. The receiver calls `release(owner, ptr, len)` exactly once, from any
 * thread, when it is done; where `release` is NULL the bytes are constant for the life of the process.
 * An extension that gives a buffer to the host must keep it unchanged until it is released. A buffer that is handed to a
 * callback is given in every case, also when the callback returns an error. */
typedef struct ext_buffer {
    const uint8_t *ptr;
    size_t len;
    void *owner;
    void (*release)(void *owner, const uint8_t *ptr, size_t len);
} ext_buffer;

/* A header, a path parameter or a log field. */
typedef struct ext_field {
    ext_slice name;
    ext_slice value;
} ext_field;

/* ---- Handles --------------------------------------------------------------------------------------------------------
 * Handles are values: copy them freely, compare nothing. A handle whose time is over is recognised, and gives EXT_GONE. */

typedef struct ext_request { /* one request, from `handle` until it is finished */
    uint64_t slot;
    uint64_t generation;
} ext_request;

typedef struct ext_fetched { /* the answer to a fetch: its head has arrived, its body is still to come */
    uint64_t slot;
    uint64_t generation;
} ext_fetched;

typedef struct ext_op { /* a sleep or a fetch under way, for `cancel` and `fetch_write` */
    uint64_t slot;
    uint64_t generation;
} ext_op;

typedef struct ext_context ext_context; /* the extension as the host knows it; for the life of the process: after `destroy` its
                                           callbacks answer EXT_GONE, or do nothing */
typedef uint32_t ext_endpoint;          /* an endpoint of the extension, numbered by `endpoint` */
typedef uint32_t ext_base;              /* a base URL, parsed once, numbered by `base`; valid until `destroy` returns */

/* ---- Completions ----------------------------------------------------------------------------------------------------
 * Whatever takes time takes a completion. Where the function returned EXT_OK, the host calls the completion exactly once,
 * always: done, failed or cancelled; on the request's worker, never from inside the call that registered it. Where the
 * function returned anything else, the completion is never called. It must not block. It may register further
 * completions and finish the request. */

typedef struct ext_result {
    uint32_t struct_size;
    ext_status status;   /* EXT_OK, EXT_END, EXT_CANCELLED, or a failure */
    ext_buffer data;     /* `read`, `fetched_read` with EXT_OK: the chunk, given, never empty. Otherwise empty. */
    ext_fetched fetched; /* `fetch` with EXT_OK: the answer, to be ended by `relay` or `fetched_drop`. Otherwise zero. */
    ext_slice message;   /* why it failed, for a log, free of secrets; lent until the completion returns */
} ext_result;

typedef struct ext_completion {
    void (*function)(void *user, const ext_result *result); /* never NULL; `result` is lent until it returns */
    void *user;
} ext_completion;

/* ---- A request ----------------------------------------------------------------------------------------------------- */

/* Who asks. The credential itself is never visible. A slice is absent (ptr NULL) where there is nothing to say. */
typedef struct ext_accountability {
    ext_slice user;         /* id; absent for an anonymous caller */
    ext_slice role;         /* id; absent without a role */
    const ext_slice *roles; /* the role and those above it */
    size_t role_count;
    ext_slice ip;           /* of the client; a proxy's X-Forwarded-For counts only where the operator trusts it */
    ext_slice user_agent;
    ext_slice origin;
    ext_slice session;
    uint8_t admin; /* 0 or 1 */
    uint8_t app;   /* 0 or 1 */
    uint8_t reserved[6];
} ext_accountability;

/* The head of a request. Lent, and unchanged, until the request is finished. Text in it is UTF-8; the body is bytes. */
typedef struct ext_request_head {
    uint32_t struct_size;
    uint32_t http_version;   /* 10 or 11 */
    ext_slice method;        /* as sent; HEAD also on a route for GET */
    ext_slice url;           /* path and query below the mount, as sent, not decoded; begins with '/' */
    ext_slice path;          /* of url: before the first '?' */
    ext_slice query;         /* of url: after the first '?'; absent without one */
    const ext_field *params; /* of the route's pattern, in its order, not decoded; the rest under "*" is named "*" */
    size_t param_count;
    ext_slice peer;          /* "address:port" of the connection */
    ext_slice id;            /* the request id, as in the log and in the answer's X-Request-Id */
    uint64_t deadline_ms;    /* how long the host waited for an answer when this began: it then answers 504; 0: for ever */
    int64_t body_length;     /* Content-Length; -1 where it is not known; 0 where there is no body */
    ext_buffer body;         /* the whole body, on a route with EXT_ROUTE_WHOLE_BODY; lent: do not release it */
    ext_accountability accountability;
} ext_request_head;

/* An answer. A status from 200 to 599. Headers are lent until the callback returns; `Connection`, `Transfer-Encoding`,
 * `Content-Length`, `Keep-Alive`, `Upgrade` and `Trailer` are the host's and passed over. The body is given. */
typedef struct ext_response {
    uint32_t struct_size;
    uint32_t status;
    const ext_field *headers;
    size_t header_count;
    ext_buffer body;
} ext_response;

/* A failure, which the host renders as {"errors":[{"message","extensions":{"code"}}]} and logs. All slices are lent until
 * the callback returns. With a status of 500 the message is shown to administrators only. */
typedef struct ext_error {
    uint32_t struct_size;
    uint32_t status;   /* 400 to 599 */
    ext_slice code;    /* for programs, "FORBIDDEN"; absent: the host's code for the status */
    ext_slice message; /* for the caller */
    ext_slice cause;   /* for the log; absent: nothing more is logged than the message */
    uint32_t flags;    /* EXT_ERROR_PANIC */
    uint32_t reserved;
} ext_error;

#define EXT_ERROR_PANIC 1u /* the handler panicked (threw, aborted its work): logged as a fault of the extension */

/* ---- An outgoing call ---------------------------------------------------------------------------------------------- */

typedef struct ext_fetch {
    uint32_t struct_size;
    uint32_t flags;           /* EXT_FETCH_* */
    ext_base base;
    uint32_t reserved;
    ext_slice method;         /* absent: that of `request` under EXT_FETCH_TAKE_HEADERS, else GET */
    ext_slice target;         /* path and query, appended to the base as they are: "/a?b=1", "?b=1" or "". Never resolved as
                                 a reference: whatever it holds, scheme, host and port stay the base's. */
    const ext_field *headers; /* set on the call, in place of headers of the same name that are taken over; an absent value
                                 (ptr NULL) removes. Lent until `fetch` returns. `Host`, `Connection`, `Content-Length` and
                                 `Transfer-Encoding` are the host's. */
    size_t header_count;
    ext_buffer body;          /* given; ignored with EXT_FETCH_TAKE_BODY or EXT_FETCH_STREAM_BODY */
    ext_request request;      /* whose headers or body are taken over, and with whose end the call is cancelled; zero: none */
    uint64_t connect_ms;      /* limits; 0: the host's default */
    uint64_t first_byte_ms;   /* from the start of the call to the answer's head, and then from chunk to chunk of its body */
    uint64_t total_ms;        /* to the end of the answer's body */
} ext_fetch;

#define EXT_FETCH_TAKE_HEADERS 1u     /* the request's method and end-to-end headers go along: no hop-by-hop header, none named
                                         in `Connection`, no credential of this host, no `Host` */
#define EXT_FETCH_TAKE_BODY 2u        /* the request's body goes along as it arrives, with back-pressure */
#define EXT_FETCH_STREAM_BODY 4u      /* the body comes through `fetch_write` and `fetch_end` */
#define EXT_FETCH_FOLLOW_REDIRECTS 8u /* up to ten, only to allowed origins; credentials stay with their origin */
#define EXT_FETCH_DECOMPRESS 16u      /* ask for gzip and give the body decoded; not for a relay */

typedef struct ext_fetched_head {
    uint32_t struct_size;
    uint32_t status;
    int64_t body_length; /* Content-Length; -1 where it is not known */
} ext_fetched_head;

/* ---- Callbacks: what the host does for an extension ---------------------------------------------------------------- */

/* Where a route is called, and with what. */
#define EXT_ROUTE_BLOCKING 1u   /* `handle` may block: called on a bounded pool of threads; implies EXT_ROUTE_WHOLE_BODY */
#define EXT_ROUTE_WHOLE_BODY 2u /* called when the whole body has arrived, in head->body; one over the limit is answered 413 */

/* Log levels. */
#define EXT_LOG_ERROR 1u
#define EXT_LOG_WARN 2u
#define EXT_LOG_INFO 3u
#define EXT_LOG_DEBUG 4u
#define EXT_LOG_TRACE 5u

typedef struct ext_callbacks {
    uint32_t struct_size;
    uint32_t abi_minor; /* of the host */

    /* -- the extension: any thread, from `create` until `destroy` returns -- */

    /* A further feature by its id, or NULL. The table is constant for the life of the process. */
    const void *(*get_interface)(ext_context *ctx, ext_slice id);

    /* Declares an endpoint; its routes are served under /id. An absent or empty id: the folder's name. `create` only.
     * An id that breaks the rules or is taken is refused by the host after `create`, with its own message. */
    ext_status (*endpoint)(ext_context *ctx, ext_slice id, ext_endpoint *endpoint);

    /* Declares a route. `create` only. `method`: "GET" or any other; absent: every method. `pattern`: segments that are
     * literal, ":name" (one segment, not empty) or, last, "*" (the rest, also empty); the most specific one wins, whatever
     * the order. `route` is handed to `handle`. EXT_INVALID: the pattern, or the pair of method and pattern is declared
     * twice; the extension is then not mounted. */
    ext_status (*route)(ext_context *ctx, ext_endpoint endpoint, ext_slice method, ext_slice pattern, uint32_t flags, void *route);

    /* Says why `create` is about to fail: the operator reads it. `create` only. */
    void (*refuse)(ext_context *ctx, ext_slice message);

    /* A variable of the host's environment that extension.toml declares. The value is lent until `destroy` returns.
     * EXT_ABSENT: declared, not set. EXT_UNDECLARED: not declared. */
    ext_status (*env)(ext_context *ctx, ext_slice name, ext_slice *value);

    /* 1 where a line of this level would be written. */
    uint32_t (*log_enabled)(ext_context *ctx, uint32_t level);

    /* Writes one line under the extension's name, with the request's id where `request` is not zero. */
    void (*log)(ext_context *ctx, ext_request request, uint32_t level, ext_slice message, const ext_field *fields, size_t field_count);

    /* Parses and checks a base URL: http or https, host, port, path; no user, query or fragment. EXT_INVALID, EXT_DENIED. */
    ext_status (*base)(ext_context *ctx, ext_slice url, ext_base *base);

    /* -- the request: any thread, until it is finished --
     *
     * A request is finished by exactly one of `respond`, `fail`, `relay`, `drop`, or by `stream` and then `end`. Until
     * then the extension owns it, also when the client has long left: its head stays readable, and every call answers
     * with a status. A route's `handle` need not finish the request before it returns.
     *
     * These calls finish the request whatever they return: with EXT_GONE nobody heard the answer, with EXT_INVALID the
     * caller got a 500 in its place. Only EXT_ANSWERED changes nothing: another answer is on its way, and a stream among
     * those is still to be ended. `stream` finishes nothing where it returns EXT_OK, and everything otherwise. A call on a
     * finished request is harmless. */

    /* NULL where the request is finished. */
    const ext_request_head *(*head)(ext_request request);

    /* The value of the header's `index`th line (from 0), by name, in any case: bytes, mostly ASCII. Lent like the head.
     * EXT_ABSENT, EXT_GONE. */
    ext_status (*header)(ext_request request, ext_slice name, size_t index, ext_slice *value);

    /* All headers, names in lower case, each line its own field. Made when first asked for. Lent like the head. */
    ext_status (*headers)(ext_request request, const ext_field **fields, size_t *count);

    /* The next chunk of the body: EXT_OK with data, EXT_END, EXT_TOO_LARGE, EXT_BROKEN, EXT_CANCELLED. One at a time.
     * EXT_END on a route with EXT_ROUTE_WHOLE_BODY, and when a fetch has taken the body. */
    ext_status (*read)(ext_request request, ext_completion completion);

    /* Answers, whole. EXT_GONE: the client has left. EXT_ANSWERED, EXT_INVALID (the caller then gets a 500). */
    ext_status (*respond)(ext_request request, const ext_response *response);

    /* Answers with an error. */
    ext_status (*fail)(ext_request request, const ext_error *error);

    /* Answers with a head; the body follows by `write`, and `end` finishes the request. The response's own body must be
     * empty. A `Content-Length` among the headers is kept here, and must then be true. */
    ext_status (*stream)(ext_request request, const ext_response *head);

    /* The next chunk of the answer; it completes when there is room for the next one: EXT_OK, or EXT_CANCELLED when the
     * client has left. One at a time. */
    ext_status (*write)(ext_request request, ext_buffer chunk, ext_completion completion);

    /* Ends the answer. With any other status than EXT_OK the connection is broken off, so that the client sees that the
     * answer is not whole. A write under way is finished first. */
    ext_status (*end)(ext_request request, ext_status status);

    /* Answers with the response of a fetch: its status, its end-to-end headers and its body as it arrives, with
     * back-pressure, inside the host. `fetched` is given. `edits` may be NULL; its status where not 0 replaces, its headers
     * are set (an absent value removes), its body must be empty. */
    ext_status (*relay)(ext_request request, ext_fetched fetched, const ext_response *edits);

    /* Gives the request up, unanswered: the caller gets a 500. */
    ext_status (*drop)(ext_request request);

    /* Completes when the request is over: with EXT_OK soon after the extension has finished it, with EXT_CANCELLED where the
     * client left or the time ran out before that (finish it soon, best by `drop`). Once a request. */
    ext_status (*watch)(ext_request request, ext_completion completion);

    /* -- time and threads: any thread. On a worker, the completion is called on that worker; elsewhere, on that of `request`
     * where it is not zero, else on a worker of the host's choice. Cancelled when `request` ends, and when the extension is
     * stopped; EXT_GONE after that. -- */

    /* Completes after `ms` milliseconds. `op` may be NULL. */
    ext_status (*sleep)(ext_context *ctx, ext_request request, uint64_t ms, ext_completion completion, ext_op *op);

    /* Completes soon, on the worker of `request`, or on one of the host's choice where `request` is zero. This is how another
     * thread comes back to a request's worker. With EXT_OK also when the request has ended meanwhile. */
    ext_status (*post)(ext_context *ctx, ext_request request, ext_completion completion);

    /* Cancels a sleep or a fetch: it completes with EXT_CANCELLED soon, unless it has just completed. */
    void (*cancel)(ext_op op);

    /* -- outgoing calls: any thread; completions as above -- */

    /* Calls out and completes with the answer's head. `op` may be NULL, except with EXT_FETCH_STREAM_BODY. Never sent twice.
     * At once: EXT_INVALID, EXT_DENIED, EXT_GONE. Later: the fetch statuses. */
    ext_status (*fetch)(ext_context *ctx, const ext_fetch *fetch, ext_completion completion, ext_op *op);

    /* The next chunk of the body of a fetch with EXT_FETCH_STREAM_BODY; completes when there is room for the next one. One at a
     * time. */
    ext_status (*fetch_write)(ext_op op, ext_buffer chunk, ext_completion completion);

    /* Ends that body. With any other status than EXT_OK the call is broken off. */
    ext_status (*fetch_end)(ext_op op, ext_status status);

    /* The answer's head, copied to `head` (set head->struct_size first); its headers, lent until `relay` or `fetched_drop`. */
    ext_status (*fetched_head)(ext_fetched fetched, ext_fetched_head *head);
    ext_status (*fetched_header)(ext_fetched fetched, ext_slice name, size_t index, ext_slice *value);
    ext_status (*fetched_headers)(ext_fetched fetched, const ext_field **fields, size_t *count);

    /* The next chunk of the answer's body: EXT_OK with data, EXT_END, EXT_BROKEN, EXT_TIMEOUT, EXT_CANCELLED. One at a time. */
    ext_status (*fetched_read)(ext_fetched fetched, ext_completion completion);

    /* Gives the answer up; a read under way completes with EXT_CANCELLED. */
    ext_status (*fetched_drop)(ext_fetched fetched);
} ext_callbacks;

/* ---- The entry: what the library exports ---------------------------------------------------------------------------- */

#define EXT_MAGIC UINT64_C(0x3154534f48545845) /* "EXTHOST1" in memory on a little-endian machine */

#define EXT_ENTRY_PANIC_ABORT 1u  /* built with panic=abort: a panic would end the host; refused unless the operator allows it */
#define EXT_ENTRY_OWNS_THREADS 2u /* starts threads of its own; all have ended when `stop` returns */

/* A constant, initialised object: the host reads it from the file, before it loads the library. The library is accepted if
 * magic and abi_major are equal, needs_minor is not above the host's minor, and struct_size reaches past `destroy`. */
typedef struct ext_entry {
    uint64_t magic;        /* EXT_MAGIC */
    uint32_t struct_size;  /* sizeof(ext_entry) */
    uint32_t abi_major;    /* EXT_ABI_MAJOR */
    uint32_t abi_minor;    /* EXT_ABI_MINOR: the header that it was built with; for messages only */
    uint32_t needs_minor;  /* the least minor whose callbacks it cannot do without */
    uint32_t flags;        /* EXT_ENTRY_* */
    uint32_t reserved;
    char sdk[32];          /* what it was built with, "extension-api 0.1.0", zero-terminated; for messages only */

    /* Makes the extension: declares endpoints and routes, reads its variables. Called once in a process, before any other hook,
     * not on a worker; see "How a build is loaded"; may block for a short while. `callbacks` lives as long as the process, `ctx` until `destroy` returns.
     * `*instance` is handed to the other hooks. Not EXT_OK: nothing else will be called, so clean up first. */
    ext_status (*create)(const ext_callbacks *callbacks, ext_context *ctx, void **instance);

    /* Handles a request: on its worker, many at a time on different workers, and must not block; a route with
     * EXT_ROUTE_BLOCKING on a thread of the pool instead. From here on the extension owns the request. */
    void (*handle)(void *instance, void *route, ext_request request);

    /* The extension is going to be destroyed: no request is open, every operation has completed. Ends its threads. Not on a
     * worker; may block. May be NULL. */
    void (*stop)(void *instance);

    /* Frees the instance; the last call. Not on a worker. May be NULL. */
    void (*destroy)(void *instance);
} ext_entry;

#if defined(_WIN32)
#define EXT_EXPORT __declspec(dllexport)
#else
#define EXT_EXPORT __attribute__((visibility("default")))
#endif

/* In the library: const ext_entry extension_entry_v1 = { ... };
 * This declaration exports it, and gives it external linkage, and C linkage, in C++ too. */
extern EXT_EXPORT const ext_entry extension_entry_v1;

#ifdef __cplusplus
}
#endif

#endif /* EXTENSION_API_H */
