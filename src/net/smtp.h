/* smtp.h - one letter to one SMTP server by libcurl; blocks, so only in a pool. */
#pragma once

#include "base/str.h"

struct smtp_letter {
    str from, to; /* addresses alone, of ASCII without control characters */
    str text;     /* the whole message, lines ended by CRLF */
};
struct smtp_server {
    str url;
    str ca_file; /* PEM file of what it is trusted by, in place of the system's; n == 0: the system's */
};
/* url: smtp://[user:password@]host[:port] or smtps://…. With a user, smtp:// insists on STARTTLS: a password never goes in the clear; without one it is used where it
 * is offered. ERR_UPSTREAM: not now, try again. ERR_INVALID: the letter was refused for good. *why is for logs and holds nothing of the URL. */
err smtp_send(struct arena *a, const struct smtp_server *server, const struct smtp_letter *letter, str *why) MUST;
/* Whether a URL is of that form. */
bool smtp_url_valid(str url);
