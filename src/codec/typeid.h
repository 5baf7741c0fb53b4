/* typeid.h - TypeIDs (typeid-spec 0.3): "<prefix>_<26 base32 characters of a UUIDv7>". Ids made within one process sort by
 * creation (RFC 9562 §6.2 method 1: a counter in rand_a). */
#pragma once

#include "base/str.h"

enum { TYPEID_SUFFIX = 26 };
/* A fresh id. now_us becomes the UUIDv7 time (ms) - pass the request's time. {NULL,0} at the cap. */
str typeid_new(struct arena *a, const char *prefix, i64 now_us);
/* From 16 bytes (pure form, for tests and imports). */
str typeid_encode(struct arena *a, const char *prefix, const u8 uuid[16]);
/* Whether s is a well-formed id; prefix NULL accepts any prefix [a-z_]{1,63}. */
bool typeid_valid(str s, const char *prefix);
bool typeid_decode(str s, const char *prefix, u8 uuid[16]);
/* Milliseconds since the epoch inside a valid UUIDv7 id; -1 otherwise. */
i64 typeid_time_ms(str s);
