/* tls.h - TLS 1.2 and 1.3 for the server: a certificate with its key, which may be replaced while it serves.
 *
 * Suites with forward secrecy and authenticated encryption only, no renegotiation, no compression, no early data. Sessions are resumed by tickets;
 * their keys are made here, live in memory, and are replaced each hour. */
#pragma once

#include "base/buf.h"

struct tls;
/* Paths of PEM files: the certificate with its chain, and its key without a passphrase. ERR_INVALID: the complaint says what is wrong with
 * which file. */
err tls_new(const char *cert, const char *key, struct buf *complaint, struct tls **out) MUST;
/* Reads the files again; connections that are open keep what they have. Unless OK all stays as it was. Any thread. */
err tls_reload(struct tls *t, struct buf *complaint) MUST;
void tls_free(struct tls *t); /* NULL is allowed */
/* When the certificate ends, microseconds since 1970. Any thread. */
i64 tls_expires_us(struct tls *t);
