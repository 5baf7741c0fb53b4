/* base64.h - RFC 4648, canonical only: wrong padding, stray bits in the last character, blanks and mixed alphabets are refused. */
#pragma once

#include "base/str.h"

enum base64_kind { BASE64, BASE64URL /* without padding */ };
str base64_encode(struct arena *a, enum base64_kind kind, str bytes);
bool base64_decode(struct arena *a, enum base64_kind kind, str text, str *bytes);
str hex_encode(struct arena *a, str bytes);
bool hex_decode(struct arena *a, str text, str *bytes);
