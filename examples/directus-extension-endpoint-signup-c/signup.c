/* POST /signup-c takes the same JSON as the example `signup` in Rust: a mistake in it is a 400 that names the field.
 * What may be called, when, and who owns what is said in extension_api.h. It compiles as C++ too. */
#include "extension_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A tokenizer that allocates nothing: https://github.com/zserge/jsmn, as it is. It passes over a comma too many, and takes
 * tokens where JSON has none: that is why their places are checked below. */
#define JSMN_STATIC
#define JSMN_STRICT
#include "jsmn.h"

#define TOKENS_MAX 16
#define EMAIL_BYTES_MAX 254 /* RFC 5321 */
#define SEATS_MAX 50

static const ext_callbacks *host;

static ext_slice text(const char *text) {
    ext_slice slice = {(const uint8_t *)text, strlen(text)};
    return slice;
}

/* ---- What is valid ---------------------------------------------------------------------------------------------------- */

typedef struct signup {
    ext_slice email; /* in the body: neither a quote nor an escape is in it */
    int seats;
    int newsletter;
} signup;

typedef struct mistake {
    const char *field;   /* NULL: the body as a whole */
    const char *problem; /* NULL: there is none */
} mistake;

static ext_slice part(ext_slice body, const jsmntok_t *token) {
    ext_slice slice;
    slice.ptr = body.ptr + token->start;
    slice.len = (size_t)(token->end - token->start);
    return slice;
}

static int is(ext_slice slice, const char *word) {
    return slice.len == strlen(word) && memcmp(slice.ptr, word, slice.len) == 0;
}

/* Each reads a value, and returns what is wrong with it or NULL. */

static const char *read_email(jsmntype_t type, ext_slice value, signup *to) {
    size_t i, at = 0, ats = 0, others = 0;
    for (i = 0; i < value.len; i++) {
        uint8_t byte = value.ptr[i];
        if (byte == '@') at = i, ats++;
        if (byte <= ' ' || byte >= 0x7f || byte == '"' || byte == '\\') others++;
    }
    if (type != JSMN_STRING || ats != 1 || others || at == 0 || at + 1 == value.len || value.len > EMAIL_BYTES_MAX)
        return "this is no e-mail address";
    to->email = value;
    return NULL;
}

static const char *read_seats(jsmntype_t type, ext_slice value, signup *to) {
    size_t i;
    int is_number = type == JSMN_PRIMITIVE && value.len <= 2 && value.ptr[0] != '0';
    to->seats = 0;
    for (i = 0; is_number && i < value.len; i++) {
        is_number = value.ptr[i] >= '0' && value.ptr[i] <= '9';
        to->seats = to->seats * 10 + (value.ptr[i] - '0');
    }
    return is_number && to->seats >= 1 && to->seats <= SEATS_MAX ? NULL : "this is not from 1 to 50";
}

static const char *read_newsletter(jsmntype_t type, ext_slice value, signup *to) {
    to->newsletter = is(value, "true");
    return type == JSMN_PRIMITIVE && (to->newsletter || is(value, "false")) ? NULL : "this is neither true nor false";
}

static const struct field {
    const char *name;
    int required;
    const char *(*read)(jsmntype_t type, ext_slice value, signup *to);
} fields[] = {{"email", 1, read_email}, {"seats", 1, read_seats}, {"newsletter", 0, read_newsletter}};

#define FIELDS (sizeof fields / sizeof *fields)

static mistake read_signup(ext_slice body, signup *to) {
    static const mistake no_object = {NULL, "this is no JSON object of a few fields"};
    mistake found = {NULL, NULL};
    jsmntok_t tokens[TOKENS_MAX];
    jsmn_parser parser;
    int seen[FIELDS] = {0};
    int i, count;
    size_t f;
    jsmn_init(&parser);
    count = jsmn_parse(&parser, (const char *)body.ptr, body.len, tokens, TOKENS_MAX);
    if (count < 1 || tokens[0].type != JSMN_OBJECT) return no_object;
    for (i = 1; i + 1 < count; i += 2) {
        const jsmntok_t *key = &tokens[i], *value = &tokens[i + 1];
        if (key->type != JSMN_STRING || key->size != 1) return no_object;
        for (f = 0; f < FIELDS && !is(part(body, key), fields[f].name); f++) {}
        if (f == FIELDS) {
            found.problem = "there is a field other than email, seats and newsletter";
            return found;
        }
        found.field = fields[f].name;
        found.problem = seen[f]++ ? "this is there twice" : fields[f].read(value->type, part(body, value), to);
        if (found.problem) return found;
        if (value->size != 0) return no_object;
    }
    while (body.len > 0 && body.ptr[body.len - 1] && strchr(" \t\r\n", body.ptr[body.len - 1])) body.len--;
    if (i != count || (size_t)tokens[0].end != body.len) return no_object;
    for (f = 0; f < FIELDS; f++) {
        found.field = fields[f].name;
        found.problem = fields[f].required && !seen[f] ? "this is missing" : NULL;
        if (found.problem) return found;
    }
    return found;
}

/* ---- What is answered ------------------------------------------------------------------------------------------------- */

static void refuse(ext_request request, mistake found) {
    ext_error error;
    char message[128];
    snprintf(message, sizeof message, "Invalid payload. At %s: %s.", found.field ? found.field : "the body", found.problem);
    memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
    error.status = 400;
    error.code = text("INVALID_PAYLOAD");
    error.message = text(message);
    host->fail(request, &error);
}

static void release(void *owner, const uint8_t *ptr, size_t len) { (void)ptr, (void)len, free(owner); }

static void accept(ext_request request, const signup *from) {
    size_t size = from->email.len + 128;
    char *body = (char *)malloc(size);
    ext_field type = {text("content-type"), text("application/json; charset=utf-8")};
    ext_response response;
    if (!body) { host->drop(request); return; }
    memset(&response, 0, sizeof response);
    response.struct_size = sizeof response;
    response.status = 201;
    response.headers = &type;
    response.header_count = 1;
    response.body.len = (size_t)snprintf(body, size, "{\"email\":\"%.*s\",\"seats\":%d,\"newsletter\":%s}",
        (int)from->email.len, (const char *)from->email.ptr, from->seats, from->newsletter ? "true" : "false");
    response.body.ptr = (const uint8_t *)body;
    response.body.owner = body;
    response.body.release = release; /* from here on the host's, which calls it once */
    host->respond(request, &response);
}

static void handle(void *self, void *route, ext_request request) { /* POST / */
    const ext_request_head *head = host->head(request);
    signup read = {{NULL, 0}, 0, 0};
    ext_slice body;
    mistake found;
    (void)self, (void)route;
    if (!head) return;
    body.ptr = head->body.ptr; /* lent until the request is finished */
    body.len = head->body.len;
    found = read_signup(body, &read);
    if (found.problem)
        refuse(request, found);
    else
        accept(request, &read); /* before this: store it */
}

/* ---- The entry -------------------------------------------------------------------------------------------------------- */

static ext_status create(const ext_callbacks *callbacks, ext_context *ctx, void **made) {
    ext_endpoint endpoint;
    host = callbacks;
    *made = NULL;
    if (host->endpoint(ctx, text("signup-c"), &endpoint) != EXT_OK) return EXT_FAILED;
    return host->route(ctx, endpoint, text("POST"), text("/"), EXT_ROUTE_WHOLE_BODY, NULL);
}

const ext_entry extension_entry_v1 = {
    EXT_MAGIC, sizeof(ext_entry), EXT_ABI_MAJOR, EXT_ABI_MINOR, 0, 0, 0, "C", create, handle, NULL, NULL,
};
