/* hash.h - SHA-256, HMAC-SHA256 and HKDF (RFC 5869) over OpenSSL; contexts fetched once per thread. */
#pragma once

#include "base/str.h"

enum { SHA256_BYTES = 32 };
void hash_sha256(str bytes, u8 out[SHA256_BYTES]);
/* Of several pieces, each preceded by its length, so that ("ab","c") and ("a","bc") differ. */
void hash_sha256_parts(const str *parts, size_t count, u8 out[SHA256_BYTES]);
void hash_hmac_sha256(str key, str bytes, u8 out[SHA256_BYTES]);
void hash_hkdf_sha256(str key, str info, u8 *out, size_t n);
