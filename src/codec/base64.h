/* base64.h - RFC 4648, canonical only: wrong padding, stray bits in the last character, blanks and mixed alphabets are refused. */
#pragma once

#include "base/str.h"

enum base64_kind { BASE64, BASE64URL /* without padding */ };
str base64_encode(struct arena *a, enum base64_kind kind, str bytes);
/* False: malformed, or at the arena's cap. */
bool base64_decode(struct arena *a, enum base64_kind kind, str text, str *bytes);
/* Into out, which has room for text.n / 4 * 3 + 3 bytes. False: malformed. */
bool base64_decode_into(enum base64_kind kind, str text, u8 *out, size_t *n);
str hex_encode(struct arena *a, str bytes);
bool hex_decode(struct arena *a, str text, str *bytes);
