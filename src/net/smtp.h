/* smtp.h - one letter to one SMTP server by libcurl; blocks, so only in a pool. */
#pragma once

#include "base/str.h"

struct smtp_letter {
    str from, to; /* addresses alone, of ASCII without control characters */
    str text;     /* the whole message, lines ended by CRLF */
};
/* url: smtp://[user:password@]host[:port] or smtps://…. With a user, smtp:// insists on STARTTLS: a password never goes in the clear; without one it is used where it
 * is offered. ERR_UPSTREAM: not now, try again. ERR_INVALID: refused for good. *why is for logs and holds nothing of the URL. */
err smtp_send(struct arena *a, str url, const struct smtp_letter *letter, str *why) MUST;
/* Whether a URL is of that form. */
bool smtp_url_valid(str url);
