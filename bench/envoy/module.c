// The handlers of ../extensions/handlers.rs as an Envoy dynamic module: `/bench/json` is answered here, `/relay/` goes on with
// Basic auth under the path behind it. bench/run compiles it with cc and loads it by envoy.filters.http.dynamic_modules.
//
// Only what is used of Envoy 1.40's interface for modules is declared; names, arguments and the order of enumerations are
// those of github.com/envoyproxy/envoy, source/extensions/dynamic_modules/abi/abi.h (Apache-2.0).

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AUTHORIZATION "Basic QUMwOnNlY3JldA=="
#define BODY "{\"message\":\"Hello, world!\",\"id\":42}"
#define PATH_BYTES_MAX 4096

typedef struct { const char *ptr; size_t length; } buffer;
typedef struct { const char *key_ptr; size_t key_length; const char *value_ptr; size_t value_length; } header;
enum { REQUEST_HEADER = 0 };
enum { CONTINUE = 0, STOP_ITERATION = 1 };
#define TEXT(literal) ((buffer){literal, sizeof(literal) - 1})

bool envoy_dynamic_module_callback_http_get_header(void *filter, int kind, buffer key, buffer *value, size_t index, size_t *count);
bool envoy_dynamic_module_callback_http_set_header(void *filter, int kind, buffer key, buffer value);
void envoy_dynamic_module_callback_http_send_response(void *filter, uint32_t status, header *headers, size_t count, buffer body,
                                                      buffer details);

static const int something; // Neither the configuration nor a request needs memory of its own, but none may be NULL.

const char *envoy_dynamic_module_on_program_init(void) { return "v0.2.0"; } // What 1.40 compares with; it logs a match.
const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, buffer name, buffer config) { return &something; }
const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *envoy) { return &something; }

// Envoy asks for all of these by name. None has anything to do; where a status is expected, it is that all goes on. The
// arguments are not declared: who calls removes them.
#define NOTHING(hook) int envoy_dynamic_module_on_http_filter_##hook(void) { return CONTINUE; }
NOTHING(config_destroy)
NOTHING(destroy)
NOTHING(stream_complete)
NOTHING(request_body)
NOTHING(request_trailers)
NOTHING(response_headers)
NOTHING(response_body)
NOTHING(response_trailers)
NOTHING(scheduled)
NOTHING(http_callout_done)
NOTHING(http_stream_headers)
NOTHING(http_stream_data)
NOTHING(http_stream_trailers)
NOTHING(http_stream_complete)
NOTHING(http_stream_reset)
NOTHING(downstream_above_write_buffer_high_watermark)
NOTHING(downstream_below_write_buffer_low_watermark)

static int answer(void *envoy, uint32_t status, buffer body) {
  header type = {"content-type", 12, "application/json; charset=utf-8", 31};
  envoy_dynamic_module_callback_http_send_response(envoy, status, &type, 1, body, (buffer){NULL, 0});
  return STOP_ITERATION;
}

static bool starts_with(buffer text, buffer start) {
  return text.length >= start.length && memcmp(text.ptr, start.ptr, start.length) == 0;
}

int envoy_dynamic_module_on_http_filter_request_headers(void *envoy, const void *filter, bool end_of_stream) {
  buffer path = {NULL, 0};
  if (!envoy_dynamic_module_callback_http_get_header(envoy, REQUEST_HEADER, TEXT(":path"), &path, 0, NULL)) return CONTINUE;
  if (starts_with(path, TEXT("/bench/json"))) return answer(envoy, 200, TEXT(BODY));
  if (!starts_with(path, TEXT("/relay/"))) return answer(envoy, 404, TEXT("{}"));
  char rest[PATH_BYTES_MAX]; // Setting a header ends the life of the text that it had.
  size_t length = path.length - strlen("/relay");
  if (length > sizeof(rest)) return answer(envoy, 414, TEXT("{}"));
  memcpy(rest, path.ptr + strlen("/relay"), length);
  envoy_dynamic_module_callback_http_set_header(envoy, REQUEST_HEADER, TEXT(":path"), (buffer){rest, length});
  envoy_dynamic_module_callback_http_set_header(envoy, REQUEST_HEADER, TEXT("authorization"), TEXT(AUTHORIZATION));
  return CONTINUE;
}
