/* message.h - what every request must be, whatever protocol brought it. Private to net. */
#pragma once

#include "net/http.h"
#include "net/refusal.h"

enum { METHOD_MAX = 32 }; /* longer ones are garbage, not an unknown method */

bool text_is_token(str s); /* RFC 9110 5.6.2 */
bool text_has_control(str s);
/* Printable ASCII without a fragment; origin form, * for OPTIONS, anything for CONNECT: the handler says no to that method. */
enum refusal check_target(str method, str target, const struct http_limits *limits) MUST;
enum refusal check_host(str host) MUST;
/* Only 100-continue; *expects is set when it is that. */
enum refusal check_expect(str value, bool *expects) MUST;
/* False when nobody knows the method. Known ones that we do not serve are HTTP_OTHER. */
bool method_of(str text, enum http_method *out);
/* path and query of the target. */
void split_target(struct http_request *rq);
