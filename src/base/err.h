/* err.h - the classes of failure, from one list.
 *
 * A class says what a caller can do about a failure and which HTTP status the edge gives it. The *detail* is written once,
 * where the failure happens: as a problem (features) or as one log line (faults of ours). Outputs of a function that
 * returns an err are untouched unless it returns OK. */
#pragma once

#include "base/base.h"

/*  class            HTTP  retry  text */
#define ERR_CLASSES(X)                                                 \
    X(ERR_DECODE, 400, false, "The request cannot be decoded")         \
    X(ERR_UNAUTHORIZED, 401, false, "Authentication is required")      \
    X(ERR_FORBIDDEN, 403, false, "Not allowed")                        \
    X(ERR_NOT_FOUND, 404, false, "Not found")                          \
    X(ERR_METHOD, 405, false, "Method not allowed")                    \
    X(ERR_CONFLICT, 409, false, "Conflict with the present state")     \
    X(ERR_PRECONDITION, 412, false, "The object has changed")          \
    X(ERR_TOO_LARGE, 413, false, "Too large")                          \
    X(ERR_MEDIA, 415, false, "Unsupported media type")                 \
    X(ERR_INVALID, 422, false, "The request is well formed but wrong") \
    X(ERR_NO_MATCH, 428, false, "A precondition is required")          \
    X(ERR_LIMIT, 429, true, "Too many requests")                       \
    X(ERR_INTERNAL, 500, false, "Internal error")                      \
    X(ERR_UPSTREAM, 502, true, "The upstream failed")                  \
    X(ERR_BUSY, 503, true, "Overloaded, try again")                    \
    X(ERR_UNAVAILABLE, 503, true, "The database does not answer")      \
    X(ERR_MEMORY, 503, true, "Out of memory for this request")         \
    X(ERR_STORAGE, 503, true, "The disk is full")                      \
    X(ERR_TIMEOUT, 504, true, "Timed out")

typedef enum err {
    OK = 0,
#define X(name, status, retry, text) name,
    ERR_CLASSES(X)
#undef X
        ERR_COUNT
} err;

/* HTTP status of a class; 200 for OK. */
int err_status(err e);
/* Whether the same request may succeed later without a change. */
bool err_retryable(err e);
/* One English sentence without a full stop, for titles and logs. Static. */
const char *err_text(err e);
/* "ERR_BUSY"; for logs and tests. Static. */
const char *err_name(err e);

/* The only control-flow macro of the project. */
#define TRY(expression)          \
    do {                         \
        err try_ = (expression); \
        if (try_ != OK)          \
            return try_;         \
    } while (0)
