/* problem.c - the codes that belong to no feature, and the list of all codes.
 *
 * A class without a problem of its own is answered by problem_of_class: a client can rely on `code` being there, whatever failed. */
#include "core/problem.h"

/* The linker makes these two from the section of that name; weak, so that a binary without any problem still links. */
extern const struct problem *const __start_weir_problems[] __attribute__((weak));
extern const struct problem *const __stop_weir_problems[] __attribute__((weak));

const struct problem *const *problems_all(size_t *count)
{
    *count = (size_t)(__stop_weir_problems - __start_weir_problems);
    return __start_weir_problems;
}

PROBLEM_SHARED(problem_body_invalid, "request.invalid", ERR_INVALID, "The request is well formed but wrong");
PROBLEM_SHARED(problem_body_json, "request.json", ERR_DECODE, "The body is not valid JSON");
PROBLEM_SHARED(problem_body_media, "request.media_type", ERR_MEDIA,
               "The body has a media type that is not accepted here");
PROBLEM_SHARED(problem_websocket, "request.websocket", ERR_DECODE, "The request asks for a WebSocket in a wrong way");
PROBLEM_SHARED(problem_origin, "request.origin", ERR_FORBIDDEN, "Pages of this origin may not open a WebSocket");
PROBLEM_SHARED(problem_unauthorized, "auth.unauthorized", ERR_UNAUTHORIZED, "A valid access token is required");
PROBLEM_SHARED(problem_forbidden, "auth.forbidden", ERR_FORBIDDEN, "The caller's role does not allow this");
PROBLEM_SHARED(problem_unanswered, "server.unanswered", ERR_INTERNAL,
               "It was done, but there was no memory left for the answer");
PROBLEM_SHARED(problem_route, "route.not_found", ERR_NOT_FOUND, "There is nothing at this path");
PROBLEM_SHARED(problem_method, "route.method_not_allowed", ERR_METHOD, "The path exists, but not with this method");

#define HERE(...)                       \
    {                                   \
        __VA_ARGS__, __FILE__, __LINE__ \
    }
const struct problem problem_of_class[ERR_COUNT] = {
    [OK] = HERE("server.internal", ERR_INTERNAL, "Internal error"), /* a handler that answered nothing */
    [ERR_DECODE] = HERE("request.undecodable", ERR_DECODE, "The request cannot be decoded"),
    [ERR_UNAUTHORIZED] = HERE("auth.unauthorized", ERR_UNAUTHORIZED, "A valid access token is required"),
    [ERR_FORBIDDEN] = HERE("auth.forbidden", ERR_FORBIDDEN, "The caller's role does not allow this"),
    [ERR_NOT_FOUND] = HERE("request.not_found", ERR_NOT_FOUND, "The object does not exist"),
    [ERR_METHOD] = HERE("route.method_not_allowed", ERR_METHOD, "The path exists, but not with this method"),
    [ERR_CONFLICT] = HERE("request.conflict", ERR_CONFLICT, "The request conflicts with the present state"),
    [ERR_PRECONDITION] =
        HERE("request.precondition_failed", ERR_PRECONDITION, "The object has changed in the meantime"),
    [ERR_TOO_LARGE] = HERE("request.too_large", ERR_TOO_LARGE, "The request is too large"),
    [ERR_MEDIA] = HERE("request.media_type", ERR_MEDIA, "The body has a media type that is not accepted here"),
    [ERR_INVALID] = HERE("request.invalid", ERR_INVALID, "The request is well formed but wrong"),
    [ERR_NO_MATCH] = HERE("request.precondition_required", ERR_NO_MATCH, "A precondition is required"),
    [ERR_LIMIT] = HERE("request.limit", ERR_LIMIT, "Too many requests"),
    [ERR_INTERNAL] = HERE("server.internal", ERR_INTERNAL, "Internal error"),
    [ERR_UPSTREAM] = HERE("server.upstream", ERR_UPSTREAM, "A service that this request needs has failed"),
    [ERR_BUSY] = HERE("server.overloaded", ERR_BUSY, "The server is overloaded; try again"),
    [ERR_UNAVAILABLE] = HERE("server.unavailable", ERR_UNAVAILABLE, "The database does not answer; try again"),
    [ERR_MEMORY] = HERE("server.memory", ERR_MEMORY, "The request needs more memory than it may have"),
    [ERR_STORAGE] = HERE("server.storage", ERR_STORAGE,
                         "The server's disk is full: nothing was changed; reads go on, writes do when there is room"),
    [ERR_TIMEOUT] = HERE("server.timeout", ERR_TIMEOUT, "The request took too long"),
};

/* One entry each: the compiler aligns an array more than its elements, which would leave holes in the section. Codes that have a
 * name of their own above stand there already. */
#define CLASS_ENTRY(class)                                                                             \
    static const struct problem *const class##_entry __attribute__((section("weir_problems"), used)) = \
        &problem_of_class[class]
CLASS_ENTRY(ERR_DECODE);
CLASS_ENTRY(ERR_NOT_FOUND);
CLASS_ENTRY(ERR_CONFLICT);
CLASS_ENTRY(ERR_PRECONDITION);
CLASS_ENTRY(ERR_TOO_LARGE);
CLASS_ENTRY(ERR_NO_MATCH);
CLASS_ENTRY(ERR_LIMIT);
CLASS_ENTRY(ERR_INTERNAL);
CLASS_ENTRY(ERR_UPSTREAM);
CLASS_ENTRY(ERR_BUSY);
CLASS_ENTRY(ERR_UNAVAILABLE);
CLASS_ENTRY(ERR_MEMORY);
CLASS_ENTRY(ERR_STORAGE);
CLASS_ENTRY(ERR_TIMEOUT);
