/* totp.h - time-based one-time passwords (RFC 6238) as authenticator programs make them: SHA-1, six digits, 30 seconds. */
#pragma once

#include "base/str.h"

enum { TOTP_SEED_BYTES = 20, TOTP_DIGITS = 6, TOTP_PERIOD_S = 30 };
i64 totp_step(i64 now_us);
void totp_code(str seed, i64 step, char out[TOTP_DIGITS]);
/* The step that the code is of: the present one or the one before, and later than `last`, so that none is taken twice; 0 when it is none of them. */
i64 totp_check(str seed, str code, i64 now_us, i64 last);
/* RFC 4648 base32 in capitals, without padding: how people type a seed. */
str base32_encode(struct arena *a, str bytes);
/* otpauth://totp/… for a QR code. */
str totp_uri(struct arena *a, str issuer, str account, str seed);
/* A QR code as an SVG picture of its own, black on white; {NULL,0} when the text is too long or at the cap. */
str qr_svg(struct arena *a, str text);
