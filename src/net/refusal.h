/* refusal.h - every reason for which the server answers by itself, before a request exists; from one list, so that the catalogue
 * of error codes can name them. */
#pragma once

#include "base/base.h"

/*  name              status code                      text */
#define HTTP_REFUSALS(X)                                                                                          \
    X(REFUSE_REQUEST_LINE, 400, "http.request_line", "The request line is not METHOD SP target SP HTTP/1.1 CRLF") \
    X(REFUSE_LINE_END, 400, "http.line_end", "A line of the head does not end with CRLF")                         \
    X(REFUSE_TARGET, 400, "http.target", "The request target is not a path of printable ASCII")                   \
    X(REFUSE_HEADER, 400, "http.header_fields", "A header field is malformed or folded")                          \
    X(REFUSE_HOST, 400, "http.host", "There is not exactly one valid Host field")                                 \
    X(REFUSE_PLAIN, 400, "http.plain", "This port speaks TLS: use https")                                         \
    X(REFUSE_LENGTH, 400, "http.content_length", "There is more than one or an invalid Content-Length")           \
    X(REFUSE_CODING, 400, "http.transfer_encoding",                                                               \
      "Transfer-Encoding is not a single chunked, or stands beside a length")                                     \
    X(REFUSE_CHUNK, 400, "http.chunk", "The chunked body is malformed")                                           \
    X(REFUSE_TIMEOUT, 408, "http.timeout", "The request did not arrive in time")                                  \
    X(REFUSE_BODY_SIZE, 413, "http.body_size", "The body is larger than allowed here")                            \
    X(REFUSE_TARGET_SIZE, 414, "http.target_size", "The request target is too long")                              \
    X(REFUSE_EXPECT, 417, "http.expect", "Only 100-continue can be expected")                                     \
    X(REFUSE_HEADER_SIZE, 431, "http.header_size", "The header fields are too many or too long")                  \
    X(REFUSE_METHOD, 501, "http.method", "The method is not known")                                               \
    X(REFUSE_CODING_UNKNOWN, 501, "http.transfer_coding", "A transfer coding other than chunked")                 \
    X(REFUSE_CONNECTIONS, 503, "http.connections", "Too many connections")                                        \
    X(REFUSE_MEMORY, 503, "http.memory", "Out of memory for this request")                                        \
    X(REFUSE_VERSION, 505, "http.version", "Only HTTP/1.0 and HTTP/1.1 are spoken")

enum refusal {
    REFUSE_NONE,
#define X(name, status, code, text) name,
    HTTP_REFUSALS(X)
#undef X
        REFUSALS
};
struct refusal_text {
    int status;
    const char *code, *text;
};
/* By enum refusal; [REFUSE_NONE] is empty. */
extern const struct refusal_text http_refusals[REFUSALS];
