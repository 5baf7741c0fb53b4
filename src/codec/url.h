/* url.h - RFC 3986: taking a URL apart, percent-decoding, forms. */
#pragma once

#include "codec/field.h"

struct url {
    str scheme, userinfo, host, path, query, fragment; /* host without brackets, lower case; path "" becomes "/" */
    u16 port;                                          /* the scheme's own when none is written */
    bool host_is_ipv6;
};
/* http and https only; no blanks or control characters; port 1–65535. ERR_INVALID otherwise. */
err url_parse(struct arena *a, str text, struct url *out) MUST;
/* %XX decoded ("+" stays). ERR_DECODE on a bad escape, on %00, or when the result is no UTF-8. */
err url_decode(struct arena *a, str text, str *out) MUST;
/* A path in its one spelling (RFC 3986 6.2.2.2): escapes of letters, digits and -._~ say nothing and are undone, all others stay. It is `text` itself where there are none. */
err url_plain(struct arena *a, str text, str *out) MUST;
/* application/x-www-form-urlencoded (WHATWG): '&' between pairs, '+' is a blank. At most 1,000 pairs. */
err url_form(struct arena *a, str text, struct pair **pairs, size_t *count) MUST;
/* Everything but unreserved characters as %XX. */
void url_put_encoded(struct buf *b, str text);
