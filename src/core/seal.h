/* seal.h - secrets at rest: XChaCha20-Poly1305 under a key of SECRET_KEY's for each purpose, bound to whose secret it is, so that a text moved to another row
 * does not open. */
#pragma once

#include "base/str.h"

/* purpose "auth.totp" names the key; owner is an id. Base64; off the writer. */
err seal_text(struct arena *a, const char *purpose, str owner, str plain, str *sealed) MUST;
/* Under SECRET_KEY, or the one of before. ERR_INTERNAL: it was not sealed so, or under another one. */
err unseal_text(struct arena *a, const char *purpose, str owner, str sealed, str *plain) MUST;
/* The same secret under SECRET_KEY alone: *out is `sealed` itself when it is so already. */
err seal_again(struct arena *a, const char *purpose, str owner, str sealed, str *out) MUST;
