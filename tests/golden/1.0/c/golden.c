/* The golden extension in C, for ABI 1.0: see ../README.md. Each route uses a part of the table, and tests/golden.rs holds
 * every later host to the answers that the host of the day gave. */
#include "../extension_api.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const ext_callbacks *host;

typedef struct instance {
    ext_context *ctx;
    ext_base upstream;
    ext_slice upstream_url;
    int32_t at_create[7]; /* statuses of calls in `create`, told by GET /created */
    atomic_uint released; /* buffers of ours that the host has released */
} instance;

static instance self;

/* ---- Slices, buffers, and text that is put together ------------------------------------------------------------------ */

static ext_slice text(const char *text) {
    ext_slice slice = {(const uint8_t *)text, strlen(text)};
    return slice;
}

static ext_buffer constant(const char *text) {
    ext_buffer buffer = {(const uint8_t *)text, strlen(text), NULL, NULL};
    return buffer;
}

/* Memory of ours, given to the host: `owner` is what is freed, which is not where the bytes begin. */
typedef struct page {
    size_t len;
    char bytes[8192];
} page;

static void release_page(void *owner, const uint8_t *ptr, size_t len) {
    page *of = owner;
    if ((const uint8_t *)of->bytes == ptr && of->len == len)
        atomic_fetch_add(&self.released, 1);
    free(of);
}

static page *new_page(void) {
    page *made = malloc(sizeof *made);
    if (made == NULL)
        abort();
    made->len = 0;
    return made;
}

static ext_buffer given(page *page) {
    ext_buffer buffer = {(const uint8_t *)page->bytes, page->len, page, release_page};
    return buffer;
}

static void put(page *page, ext_slice slice) {
    size_t i;
    for (i = 0; i < slice.len && page->len < sizeof page->bytes; i++)
        page->bytes[page->len++] = (char)slice.ptr[i];
}

static void put_text(page *page, const char *of) { put(page, text(of)); }

static void put_number(page *page, int64_t number) {
    char digits[24];
    size_t at = sizeof digits;
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    ext_slice slice;
    do {
        digits[--at] = (char)('0' + rest % 10);
    } while ((rest /= 10) != 0);
    if (number < 0)
        digits[--at] = '-';
    slice.ptr = (const uint8_t *)digits + at;
    slice.len = sizeof digits - at;
    put(page, slice);
}

/* One line: name=value, or name absent. */
static void put_line(page *page, const char *name, ext_slice value) {
    put_text(page, name);
    if (value.ptr == NULL) {
        put_text(page, " absent");
    } else {
        put_text(page, "=");
        put(page, value);
    }
    put_text(page, "\n");
}

static void put_number_line(page *page, const char *name, int64_t number) {
    put_text(page, name);
    put_text(page, "=");
    put_number(page, number);
    put_text(page, "\n");
}

/* ---- Answers --------------------------------------------------------------------------------------------------------- */

static const ext_response *plain(uint32_t status, ext_buffer body) {
    static _Thread_local ext_field headers[2];
    static _Thread_local ext_response response;
    headers[0].name = text("Content-Type");
    headers[0].value = text("text/plain");
    headers[1].name = text("X-Golden");
    headers[1].value = text("C 1.0");
    memset(&response, 0, sizeof response);
    response.struct_size = sizeof response;
    response.status = status;
    response.headers = headers;
    response.header_count = 2;
    response.body = body;
    return &response;
}

static ext_status answer(ext_request request, uint32_t status, const char *body) {
    return host->respond(request, plain(status, constant(body)));
}

static ext_status answer_page(ext_request request, page *page) { return host->respond(request, plain(200, given(page))); }

static ext_error error_of(uint32_t status, const char *message) {
    ext_error error;
    memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
    error.status = status;
    error.message = text(message);
    return error;
}

/* What a request of several steps remembers. */
typedef struct work {
    ext_request request;
    ext_op op;
    ext_fetched fetched;
    page *page;
    int step;
} work;

static work *begin(ext_request request) {
    work *made = calloc(1, sizeof *made);
    if (made == NULL)
        abort();
    made->request = request;
    return made;
}

static ext_completion then(void (*function)(void *, const ext_result *), work *w) {
    ext_completion completion = {function, w};
    return completion;
}

/* A step that could not be begun: its status is the answer. */
static void give_up(work *w, const char *what, ext_status status) {
    page *page = w->page ? w->page : new_page();
    put_number_line(page, what, status);
    answer_page(w->request, page);
    free(w);
}

/* ---- Answered at once ------------------------------------------------------------------------------------------------ */

/* GET /now */
static void now(ext_request request) { answer(request, 200, "golden C"); }

/* GET /created: what `create` was told */
static void created(ext_request request) {
    static const char *const calls[] = {"env set",     "env absent",   "env undeclared", "base denied",
                                        "base invalid", "interface",      "table known"};
    page *page = new_page();
    size_t i;
    for (i = 0; i < 7; i++)
        put_number_line(page, calls[i], self.at_create[i]);
    answer_page(request, page);
}

/* GET /head/:one/and/:two/ and the rest: everything of the head that does not change from run to run */
static void head(ext_request request) {
    const ext_request_head *head = host->head(request);
    page *page = new_page();
    size_t i;
    put_number_line(page, "struct_size known", head->struct_size >= sizeof *head);
    put_number_line(page, "http_version", head->http_version);
    put_line(page, "method", head->method);
    put_line(page, "url", head->url);
    put_line(page, "path", head->path);
    put_line(page, "query", head->query);
    for (i = 0; i < head->param_count; i++) {
        put_text(page, "param ");
        put(page, head->params[i].name);
        put_line(page, "", head->params[i].value);
    }
    put_number_line(page, "peer known", head->peer.len > 0);
    put_line(page, "id", head->id);
    put_number_line(page, "deadline_ms", (int64_t)head->deadline_ms);
    put_number_line(page, "body_length", head->body_length);
    answer_page(request, page);
}

/* GET /who */
static void who(ext_request request) {
    const ext_accountability *who = &host->head(request)->accountability;
    page *page = new_page();
    size_t i;
    put_line(page, "user", who->user);
    put_line(page, "role", who->role);
    for (i = 0; i < who->role_count; i++)
        put_line(page, "roles", who->roles[i]);
    put_line(page, "ip", who->ip);
    put_line(page, "user_agent", who->user_agent);
    put_line(page, "origin", who->origin);
    put_line(page, "session", who->session);
    put_number_line(page, "admin", who->admin);
    put_number_line(page, "app", who->app);
    answer_page(request, page);
}

/* GET /headers: the lines that begin with x-, then one name by its index */
static void headers(ext_request request) {
    const ext_field *fields = NULL;
    size_t count = 0, i;
    ext_slice value = {NULL, 0};
    page *page = new_page();
    put_number_line(page, "headers", host->headers(request, &fields, &count));
    for (i = 0; i < count; i++) {
        if (fields[i].name.len > 2 && fields[i].name.ptr[0] == 'x' && fields[i].name.ptr[1] == '-') {
            put(page, fields[i].name);
            put_line(page, "", fields[i].value);
        }
    }
    put_number_line(page, "header 0", host->header(request, text("X-TWICE"), 0, &value));
    put_line(page, "value", value);
    put_number_line(page, "header 1", host->header(request, text("x-twice"), 1, &value));
    put_line(page, "value", value);
    put_number_line(page, "header 2", host->header(request, text("x-twice"), 2, &value));
    answer_page(request, page);
}

/* POST /whole and /blocking: the body, which is here */
static void whole(ext_request request) {
    const ext_buffer *body = &host->head(request)->body;
    ext_slice slice = {body->ptr, body->len};
    page *page = new_page();
    put_number_line(page, "length", (int64_t)body->len);
    put_line(page, "body", slice);
    answer_page(request, page);
}

/* GET /released: how many buffers of ours came back */
static void released(ext_request request) {
    page *page = new_page();
    put_number_line(page, "released", atomic_load(&self.released));
    answer_page(request, page);
}

/* GET /error, /broke: a failure with everything, and one that says a panic */
static void error(ext_request request) {
    ext_error error = error_of(418, "I am a golden teapot.");
    error.code = text("GOLDEN_TEAPOT");
    error.cause = text("it is short and stout");
    host->fail(request, &error);
}

static void broke(ext_request request) {
    ext_error error = error_of(500, "a golden secret");
    error.flags = EXT_ERROR_PANIC;
    host->fail(request, &error);
}

/* GET /drop */
static void drop(ext_request request) { host->drop(request); }

/* GET /log: a line for each level that is written, with the request's id; one without a request */
static void write_log(ext_request request) {
    static const ext_request none;
    ext_field field = {text("fact"), text("of C")};
    page *page = new_page();
    uint32_t level, written = 0;
    for (level = EXT_LOG_ERROR; level <= EXT_LOG_TRACE; level++) {
        if (host->log_enabled(self.ctx, level)) {
            host->log(self.ctx, request, level, text("a golden line"), &field, 1);
            written++;
        }
    }
    host->log(self.ctx, none, EXT_LOG_WARN, text("a golden line of no request"), NULL, 0);
    put_number_line(page, "levels", written);
    answer_page(request, page);
}

/* GET /finished: what calls on a request say after its answer, in the log */
static void finished(ext_request request) {
    static const ext_request none;
    ext_slice value = {NULL, 0};
    page *page = new_page();
    ext_field field;
    put_number_line(page, "respond", answer(request, 200, "answered"));
    put_number_line(page, "again", answer(request, 200, "twice"));
    put_number_line(page, "header", host->header(request, text("host"), 0, &value));
    put_number_line(page, "head known", host->head(request) != NULL);
    field.name = text("statuses");
    field.value.ptr = (const uint8_t *)page->bytes;
    field.value.len = page->len;
    host->log(self.ctx, none, EXT_LOG_INFO, text("golden statuses"), &field, 1);
    free(page);
}

/* ---- Streams --------------------------------------------------------------------------------------------------------- */

/* POST /echo: what is read is written, one chunk at a time */
static void echo_read(void *user, const ext_result *result);

static void echo_written(void *user, const ext_result *result) {
    work *w = user;
    if (result->status != EXT_OK || host->read(w->request, then(echo_read, w)) != EXT_OK) {
        host->end(w->request, EXT_FAILED);
        free(w);
    }
}

static void echo_read(void *user, const ext_result *result) {
    work *w = user;
    if (result->status == EXT_OK && host->write(w->request, result->data, then(echo_written, w)) == EXT_OK)
        return;
    host->end(w->request, result->status == EXT_END ? EXT_OK : EXT_FAILED);
    free(w);
}

static void echo(ext_request request) {
    work *w;
    if (host->stream(request, plain(200, constant(""))) != EXT_OK)
        return;
    w = begin(request);
    if (host->read(request, then(echo_read, w)) != EXT_OK) {
        host->end(request, EXT_FAILED);
        free(w);
    }
}

/* GET /truncated: a stream that says that it is not whole */
static void truncated_written(void *user, const ext_result *result) {
    work *w = user;
    (void)result;
    host->end(w->request, EXT_FAILED);
    free(w);
}

static void truncated(ext_request request) {
    work *w = begin(request);
    page *page = new_page();
    put_text(page, "the beginning");
    if (host->stream(request, plain(200, constant(""))) != EXT_OK ||
        host->write(request, given(page), then(truncated_written, w)) != EXT_OK)
        free(w);
}

/* ---- Time ------------------------------------------------------------------------------------------------------------ */

/* GET /later: a sleep, then a post */
static void posted(void *user, const ext_result *result) {
    work *w = user;
    put_number_line(w->page, "posted", result->status);
    answer_page(w->request, w->page);
    free(w);
}

static void slept(void *user, const ext_result *result) {
    work *w = user;
    ext_status status;
    put_number_line(w->page, "slept", result->status);
    if ((status = host->post(self.ctx, w->request, then(posted, w))) != EXT_OK)
        give_up(w, "post", status);
}

static void later(ext_request request) {
    work *w = begin(request);
    ext_status status;
    w->page = new_page();
    if ((status = host->sleep(self.ctx, request, 5, then(slept, w), NULL)) != EXT_OK)
        give_up(w, "sleep", status);
}

/* GET /cancelled: an hour's sleep that is cancelled */
static void woken(void *user, const ext_result *result) {
    work *w = user;
    put_number_line(w->page, "woken", result->status);
    answer_page(w->request, w->page);
    free(w);
}

static void cancelled(ext_request request) {
    work *w = begin(request);
    ext_status status;
    w->page = new_page();
    if ((status = host->sleep(self.ctx, request, 3600 * 1000, then(woken, w), &w->op)) != EXT_OK)
        give_up(w, "sleep", status);
    else
        host->cancel(w->op);
}

/* GET /watch: answers, and logs how the request ended. GET /watch-unanswered: waits until its client leaves */
static void over(void *user, const ext_result *result) {
    work *w = user;
    static const ext_request none;
    page *page = new_page();
    ext_field field;
    put_number(page, result->status);
    field.name = text("status");
    field.value.ptr = (const uint8_t *)page->bytes;
    field.value.len = page->len;
    host->log(self.ctx, none, EXT_LOG_INFO, text("golden request is over"), &field, 1);
    free(page);
    host->drop(w->request); /* harmless where it is finished */
    free(w);
}

static void watch(ext_request request) {
    work *w = begin(request);
    ext_status status;
    if ((status = host->watch(request, then(over, w))) != EXT_OK)
        give_up(w, "watch", status);
    else
        answer(request, 200, "watched");
}

static void watch_unanswered(ext_request request) {
    static const ext_request none;
    work *w = begin(request);
    ext_status status;
    if ((status = host->watch(request, then(over, w))) != EXT_OK)
        give_up(w, "watch", status);
    else
        host->log(self.ctx, none, EXT_LOG_INFO, text("golden request waits"), NULL, 0);
}

/* ---- Outgoing calls -------------------------------------------------------------------------------------------------- */

static ext_fetch call_of(ext_request request, const char *target) {
    ext_fetch call;
    memset(&call, 0, sizeof call);
    call.struct_size = sizeof call;
    call.base = self.upstream;
    call.target = text(target);
    call.request = request;
    return call;
}

/* GET /relay: another status, a header set, one removed */
static void relay_fetched(void *user, const ext_result *result) {
    work *w = user;
    ext_field edits[2];
    ext_response response;
    if (result->status != EXT_OK) {
        give_up(w, "fetch", result->status);
        return;
    }
    edits[0].name = text("x-edited");
    edits[0].value = text("by C");
    edits[1].name = text("x-removed");
    edits[1].value.ptr = NULL;
    edits[1].value.len = 0;
    memset(&response, 0, sizeof response);
    response.struct_size = sizeof response;
    response.status = 203;
    response.headers = edits;
    response.header_count = 2;
    host->relay(w->request, result->fetched, &response);
    free(w);
}

static void relay(ext_request request) {
    work *w = begin(request);
    ext_fetch call = call_of(request, "/relayed?by=C");
    ext_field header = {text("x-key"), text("golden key")};
    ext_status status;
    call.method = text("PUT");
    call.headers = &header;
    call.header_count = 1;
    call.body = constant("a constant body");
    if ((status = host->fetch(self.ctx, &call, then(relay_fetched, w), NULL)) != EXT_OK)
        give_up(w, "fetch", status);
}

/* any /forward and the rest: method, headers and body of the request go along, less one header; the answer as it is */
static void forward_fetched(void *user, const ext_result *result) {
    work *w = user;
    if (result->status != EXT_OK) {
        give_up(w, "fetch", result->status);
        return;
    }
    host->relay(w->request, result->fetched, NULL);
    free(w);
}

static void forward(ext_request request) {
    work *w = begin(request);
    ext_fetch call = call_of(request, "");
    ext_field header = {text("x-private"), {NULL, 0}};
    ext_status status;
    call.flags = EXT_FETCH_TAKE_HEADERS | EXT_FETCH_TAKE_BODY;
    call.target = host->head(request)->url;
    call.headers = &header;
    call.header_count = 1;
    if ((status = host->fetch(self.ctx, &call, then(forward_fetched, w), NULL)) != EXT_OK)
        give_up(w, "fetch", status);
}

/* POST /upload: a body in two chunks, the second after room was made for the first; then head, headers and body of the
 * answer. Two completions may be under way for one `work`, the write's and the fetch's: the last to end answers. */
static void upload_ended(work *w) {
    if (--w->step > 0)
        return;
    answer_page(w->request, w->page);
    free(w);
}

static void upload_read(void *user, const ext_result *result) {
    work *w = user;
    ext_slice chunk;
    ext_status status;
    if (result->status == EXT_OK) {
        chunk.ptr = result->data.ptr;
        chunk.len = result->data.len;
        put(w->page, chunk);
        if (result->data.release)
            result->data.release(result->data.owner, result->data.ptr, result->data.len);
        if ((status = host->fetched_read(w->fetched, then(upload_read, w))) == EXT_OK)
            return;
        put_number_line(w->page, "fetched_read", status);
    }
    put_number_line(w->page, "\nend", result->status);
    put_number_line(w->page, "fetched_drop", host->fetched_drop(w->fetched));
    upload_ended(w);
}

static void upload_fetched(void *user, const ext_result *result) {
    work *w = user;
    ext_fetched_head head;
    const ext_field *fields = NULL;
    size_t count = 0, i;
    ext_slice value = {NULL, 0};
    ext_status status;
    put_number_line(w->page, "fetched", result->status);
    if (result->status != EXT_OK) {
        upload_ended(w);
        return;
    }
    w->fetched = result->fetched;
    memset(&head, 0, sizeof head);
    head.struct_size = sizeof head;
    put_number_line(w->page, "fetched_head", host->fetched_head(w->fetched, &head));
    put_number_line(w->page, "status", head.status);
    put_number_line(w->page, "body_length", head.body_length);
    put_number_line(w->page, "fetched_header", host->fetched_header(w->fetched, text("X-TWICE"), 1, &value));
    put_line(w->page, "value", value);
    put_number_line(w->page, "fetched_headers", host->fetched_headers(w->fetched, &fields, &count));
    for (i = 0; i < count; i++) {
        put(w->page, fields[i].name);
        put_line(w->page, "", fields[i].value);
    }
    if ((status = host->fetched_read(w->fetched, then(upload_read, w))) != EXT_OK) {
        put_number_line(w->page, "fetched_read", status);
        upload_ended(w);
    }
}

static void upload_second(void *user, const ext_result *result) {
    work *w = user;
    host->fetch_end(w->op, result->status == EXT_OK ? EXT_OK : EXT_FAILED);
    upload_ended(w);
}

static void upload_first(void *user, const ext_result *result) {
    work *w = user;
    page *page;
    if (result->status == EXT_OK) {
        page = new_page();
        put_text(page, " and two");
        if (host->fetch_write(w->op, given(page), then(upload_second, w)) == EXT_OK)
            return;
    }
    host->fetch_end(w->op, EXT_FAILED);
    upload_ended(w);
}

static void upload(ext_request request) {
    work *w = begin(request);
    ext_fetch call = call_of(request, "/uploaded");
    ext_status status;
    call.flags = EXT_FETCH_STREAM_BODY;
    call.method = text("POST");
    call.total_ms = 60000;
    w->page = new_page();
    if ((status = host->fetch(self.ctx, &call, then(upload_fetched, w), &w->op)) != EXT_OK) {
        give_up(w, "fetch", status);
        return;
    }
    w->step = 2;
    if ((status = host->fetch_write(w->op, constant("one"), then(upload_first, w))) != EXT_OK) {
        host->fetch_end(w->op, EXT_FAILED);
        upload_ended(w);
    }
}

/* GET /given-up: an answer that is dropped unread */
static void given_up_fetched(void *user, const ext_result *result) {
    work *w = user;
    w->page = new_page();
    put_number_line(w->page, "fetched", result->status);
    if (result->status == EXT_OK) {
        put_number_line(w->page, "fetched_drop", host->fetched_drop(result->fetched));
        put_number_line(w->page, "again", host->fetched_drop(result->fetched));
    }
    answer_page(w->request, w->page);
    free(w);
}

static void given_up(ext_request request) {
    work *w = begin(request);
    ext_fetch call = call_of(request, "/given-up");
    ext_status status;
    if ((status = host->fetch(self.ctx, &call, then(given_up_fetched, w), NULL)) != EXT_OK)
        give_up(w, "fetch", status);
}

/* GET /late: a call with a time limit that passes */
static void late_fetched(void *user, const ext_result *result) {
    work *w = user;
    w->page = new_page();
    put_number_line(w->page, "fetched", result->status);
    put_number_line(w->page, "message known", result->message.len > 0);
    answer_page(w->request, w->page);
    free(w);
}

static void late(ext_request request) {
    work *w = begin(request);
    ext_fetch call = call_of(request, "/late");
    ext_status status;
    call.first_byte_ms = 50;
    if ((status = host->fetch(self.ctx, &call, then(late_fetched, w), NULL)) != EXT_OK)
        give_up(w, "fetch", status);
}

/* ---- What is served -------------------------------------------------------------------------------------------------- */

typedef struct handler {
    const char *method, *pattern;
    uint32_t flags;
    void (*run)(ext_request);
} handler;

static const handler first[] = {
    {"GET", "/now", 0, now},
    {"GET", "/created", 0, created},
    {NULL, "/head/:one/and/:two/*", 0, head},
    {"GET", "/who", 0, who},
    {"GET", "/headers", 0, headers},
    {"POST", "/whole", EXT_ROUTE_WHOLE_BODY, whole},
    {"POST", "/blocking", EXT_ROUTE_BLOCKING, whole},
    {"GET", "/released", 0, released},
    {"GET", "/error", 0, error},
    {"GET", "/broke", 0, broke},
    {"GET", "/drop", 0, drop},
    {"GET", "/log", 0, write_log},
    {"GET", "/finished", 0, finished},
    {"POST", "/echo", 0, echo},
    {"GET", "/truncated", 0, truncated},
    {"GET", "/later", 0, later},
    {"GET", "/cancelled", 0, cancelled},
    {"GET", "/watch", 0, watch},
    {"GET", "/watch-unanswered", 0, watch_unanswered},
    {"GET", "/relay", 0, relay},
    {NULL, "/forward/*", 0, forward},
    {"POST", "/upload", 0, upload},
    {"GET", "/given-up", 0, given_up},
    {"GET", "/late", 0, late},
};

static const handler second[] = {
    {"GET", "/now", 0, now},
};

static ext_status mount(const char *id, const handler *handlers, size_t count) {
    ext_endpoint endpoint = 0;
    ext_status status = host->endpoint(self.ctx, text(id), &endpoint);
    ext_slice absent = {NULL, 0};
    size_t i;
    for (i = 0; i < count && status == EXT_OK; i++)
        status = host->route(self.ctx, endpoint, handlers[i].method ? text(handlers[i].method) : absent,
                             text(handlers[i].pattern), handlers[i].flags, (void *)(uintptr_t)&handlers[i]);
    return status;
}

static ext_status create(const ext_callbacks *callbacks, ext_context *ctx, void **made) {
    ext_slice value = {NULL, 0};
    ext_base base;
    host = callbacks;
    self.ctx = ctx;
    if (host->env(ctx, text("GOLDEN_REFUSES"), &value) == EXT_OK) {
        host->refuse(ctx, text("the golden extension was told to refuse"));
        return EXT_FAILED;
    }
    self.at_create[0] = host->env(ctx, text("GOLDEN_UPSTREAM"), &self.upstream_url);
    self.at_create[1] = host->env(ctx, text("GOLDEN_ABSENT"), &value);
    self.at_create[2] = host->env(ctx, text("PATH"), &value);
    self.at_create[3] = host->base(ctx, text("https://elsewhere.example"), &base);
    self.at_create[4] = host->base(ctx, text("ftp://elsewhere.example"), &base);
    self.at_create[5] = host->get_interface(ctx, text("golden.nobody.knows")) != NULL;
    self.at_create[6] = host->struct_size >= sizeof *host;
    if (host->base(ctx, self.upstream_url, &self.upstream) != EXT_OK)
        return EXT_FAILED;
    if (mount("golden-c", first, sizeof first / sizeof *first) != EXT_OK)
        return EXT_FAILED;
    if (mount("golden-c-too", second, sizeof second / sizeof *second) != EXT_OK)
        return EXT_FAILED;
    *made = &self;
    return EXT_OK;
}

static void handle(void *instance, void *route, ext_request request) {
    (void)instance;
    ((const handler *)route)->run(request);
}

static void stop(void *instance) {
    static const ext_request none;
    (void)instance;
    host->log(self.ctx, none, EXT_LOG_INFO, text("the golden extension in C stops"), NULL, 0);
}

static void destroy(void *instance) {
    static const ext_request none;
    (void)instance;
    host->log(self.ctx, none, EXT_LOG_INFO, text("the golden extension in C is destroyed"), NULL, 0);
}

const ext_entry extension_entry_v1 = {
    EXT_MAGIC, sizeof(ext_entry), EXT_ABI_MAJOR, EXT_ABI_MINOR, 0, 0, 0, "C golden 1.0", create, handle, stop, destroy,
};
