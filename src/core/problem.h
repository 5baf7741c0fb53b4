/* problem.h - stable error codes: word.reason, a class (HTTP status) and a title. Registered by PROBLEM(), listed by problems_all() for the
 * documentation; answered as RFC 9457 application/problem+json by reply.h. */
#pragma once

#include "base/str.h"

struct problem {
    const char *code; /* "workflows.not_found" */
    err class;
    const char *title; /* one sentence without a full stop */
    const char *file;  /* where it stands; filled by the macros */
    int line;
};
#define PROBLEM(id, code_, class_, title_)                                                \
    static const struct problem id = { (code_), (class_), (title_), __FILE__, __LINE__ }; \
    static const struct problem *const id##_entry __attribute__((section("weir_problems"), used)) = &id
/* For a problem that another file of the same layer uses too: define without static, declare extern. */
#define PROBLEM_SHARED(id, code_, class_, title_)                                  \
    const struct problem id = { (code_), (class_), (title_), __FILE__, __LINE__ }; \
    static const struct problem *const id##_entry __attribute__((section("weir_problems"), used)) = &id

const struct problem *const *problems_all(size_t *count);

extern const struct problem
    problem_of_class[ERR_COUNT]; /* "internal", "overloaded" … for failures without a code of their own */
extern const struct problem problem_body_invalid; /* request.invalid 422: `errors` says what */
extern const struct problem problem_body_json;    /* request.json 400 */
extern const struct problem problem_body_media;   /* request.media_type 415 */
extern const struct problem problem_websocket;    /* request.websocket 400 */
extern const struct problem problem_origin;       /* request.origin 403 */
extern const struct problem problem_unauthorized; /* auth.unauthorized 401 */
extern const struct problem problem_forbidden;    /* auth.forbidden 403 */
extern const struct problem problem_unanswered;   /* server.unanswered 500: committed, and no memory to say so */
extern const struct problem problem_route;        /* route.not_found 404 */
extern const struct problem problem_method;       /* route.method_not_allowed 405 */
