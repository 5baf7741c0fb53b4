/* compress.h - content codings of answers: which one the client takes, and the bytes in it. */
#pragma once

#include "base/str.h"

enum coding { CODING_NONE, CODING_GZIP, CODING_BROTLI, CODINGS };
enum { COMPRESS_MIN = 1024 /* below, the head outweighs what is saved */ };

/* "gzip"; static. STR_NONE for CODING_NONE. */
str coding_name(enum coding c);
/* The best coding that an Accept-Encoding value takes (RFC 9110, 12.5.3): by weight, then brotli before gzip, then none. */
enum coding coding_choose(str accept_encoding);
/* Whether a body of this media type shrinks: text and what is text underneath. */
bool compress_type(str content_type);
/* The body in the coding. ERR_TOO_LARGE when it did not get smaller, ERR_MEMORY; the plain body then serves as well. */
err compress_body(struct arena *a, enum coding c, str body, str *out) MUST;

/* A body that never changes, in every coding. */
struct packed {
    str bodies[CODINGS]; /* STR_NONE: this coding makes it no smaller */
};
err packed_make(struct arena *a, str body, struct packed *out) MUST;
