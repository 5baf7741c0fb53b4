/* mail.h - letters to people: a template and its words, kept as a job in the transaction of what they tell about, sent by SMTP (SMTP_URL) or kept as files
 * (WEIR_MAIL_DIR). */
#pragma once

#include "core/module.h"
#include "db/db.h"

/* The job and what it says at start; a module without routes. */
extern const struct module mail_module;

enum { MAIL_WORDS_MAX = 8 };
struct mail {
    const char *template; /* "invitation"; mail.c lists them */
    str to;
    struct pair words[MAIL_WORDS_MAX]; /* {name} in the template; ends with an empty name */
};
/* Off the writer: words may hold a token, so they are sealed. */
err mail_prepare(struct arena *a, const struct mail *m, str *payload) MUST;
/* In the transaction of the change: the letter goes when it commits. */
err mail_enqueue(struct tx *tx, struct arena *a, i64 now_us, str tenant_id, str payload) MUST;

/* Pure: the whole message as it is sent. ERR_NOT_FOUND: no such template. */
err mail_render(struct arena *a, const struct mail *m, str from, str id, i64 now_us, str *text) MUST;
/* "Weir <weir@example.com>" or the address alone: whether it can be a sender, and its address. */
bool mail_sender(str text, str *address);
