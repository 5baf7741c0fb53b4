/* mail.c - see mail.h. A letter is data: a subject, paragraphs and one link, from which both its plain and its HTML form are written.
 *
 * Words come from people, so they never reach a header or markup as they are: subjects are encoded words, HTML is escaped, line ends are taken out. No letter loads
 * anything (no image, no font): it tells nobody that it was opened. */
#include "core/mail.h"
#include "base/clock.h"
#include "base/log.h"
#include "codec/base64.h"
#include "codec/typeid.h"
#include "core/app.h"
#include "core/jobs.h"
#include "core/keys.h"
#include "core/seal.h"
#include "net/smtp.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PARAGRAPHS_MAX = 4,
    BASE64_LINE = 76,
    ATTEMPTS = 24 /* half a day, by the jobs' back-off: mail servers are mended by people */
};

struct template
{
    const char *name, *subject;
    const char *paragraphs[PARAGRAPHS_MAX];
    const char *button; /* what the link {link} says; NULL: there is none */
    const char *after;  /* behind the link */
};
static const struct template templates[] = {
    { "invitation",
      "{inviter} invites you to {tenant}",
      { "Hello,", "{inviter} invites you to join {tenant} on Weir as {role}.",
        "Open this link within 7 days to choose your password, or to sign in if you have one:" },
      "Accept the invitation",
      "If you do not know what this is about, nothing happens unless you open the link." },
    { "reset",
      "Choose a new password",
      { "Hello,", "somebody, probably you, asked for a new password for {email} from the address {ip}.",
        "Open this link within 10 minutes to choose one. It works once:" },
      "Choose a new password",
      "If it was not you, nothing has changed, and you need not do anything." },
    { "password_changed",
      "Your password was changed",
      { "Hello,", "the password of {email} was changed on {time} from the address {ip}. Other sessions were ended.",
        "If it was not you, ask for a new password at once and tell an administrator." },
      NULL,
      NULL },
    { "totp_enabled",
      "Two-factor sign-in is on",
      { "Hello,", "a second factor was set up for {email} on {time} from the address {ip}.",
        "If it was not you, change your password at once and tell an administrator." },
      NULL,
      NULL },
    { "totp_disabled",
      "Two-factor sign-in is off",
      { "Hello,", "the second factor of {email} was removed on {time} from the address {ip}.",
        "If it was not you, change your password at once and tell an administrator." },
      NULL,
      NULL },
    { "refresh_reused",
      "A session was ended for your safety",
      { "Hello,",
        "a sign-in token of {email} was used twice, last from the address {ip} on {time}. Its session was ended.",
        "If you did not restore a backup or copy a session, change your password." },
      NULL,
      NULL },
};

static const struct template *template_of(const char *name)
{
    for (size_t i = 0; i < COUNT(templates); i++)
        if (strcmp(templates[i].name, name) == 0)
            return &templates[i];
    return NULL;
}

/* ---- texts ---- */

static str word_of(const struct mail *m, str name)
{
    for (u32 i = 0; i < MAIL_WORDS_MAX && m->words[i].name.n > 0; i++)
        if (str_eq(m->words[i].name, name))
            return m->words[i].value;
    return STR_NONE;
}

static void put_plain(struct buf *b, str s)
{
    for (size_t i = 0; i < s.n; i++)
        buf_char(b, (u8)s.p[i] < ' ' || s.p[i] == 127 ? ' ' : s.p[i]);
}

static void put_html(struct buf *b, str s)
{
    for (size_t i = 0; i < s.n; i++) {
        const char *entity = s.p[i] == '&'   ? "&amp;"
                             : s.p[i] == '<' ? "&lt;"
                             : s.p[i] == '>' ? "&gt;"
                             : s.p[i] == '"' ? "&quot;"
                                             : NULL;
        if (entity != NULL)
            buf_str(b, str_of(entity));
        else
            put_plain(b, str_slice(s, i, i + 1));
    }
}

/* The template's text with {words} in place. */
static void fill(struct buf *b, const struct mail *m, const char *text, void (*put)(struct buf *, str))
{
    str rest = str_of(text);
    for (i64 open; (open = str_find_char(rest, '{', 0)) >= 0;) {
        i64 close = str_find_char(rest, '}', (size_t)open);
        assert(close > open); /* the templates are ours */
        put(b, str_slice(rest, 0, (size_t)open));
        put(b, word_of(m, str_slice(rest, (size_t)open + 1, (size_t)close)));
        rest = str_slice(rest, (size_t)close + 1, rest.n);
    }
    put(b, rest);
}

static void write_text(struct buf *b, const struct mail *m, const struct template *t)
{
    for (u32 i = 0; i < PARAGRAPHS_MAX && t->paragraphs[i] != NULL; i++) {
        fill(b, m, t->paragraphs[i], put_plain);
        BUF_LIT(b, "\r\n\r\n");
    }
    if (t->button != NULL) {
        fill(b, m, "{link}", put_plain);
        BUF_LIT(b, "\r\n\r\n");
    }
    if (t->after != NULL) {
        fill(b, m, t->after, put_plain);
        BUF_LIT(b, "\r\n");
    }
}

static void write_html(struct buf *b, const struct mail *m, const struct template *t)
{
    BUF_LIT(
        b,
        "<!doctype html>\r\n<html lang=\"en\"><body style=\"font:16px/1.5 sans-serif;color:#1a1a1a;max-width:36em\">\r\n");
    for (u32 i = 0; i < PARAGRAPHS_MAX && t->paragraphs[i] != NULL; i++) {
        BUF_LIT(b, "<p>");
        fill(b, m, t->paragraphs[i], put_html);
        BUF_LIT(b, "</p>\r\n");
    }
    if (t->button != NULL) {
        BUF_LIT(b, "<p><a href=\"");
        fill(b, m, "{link}", put_html);
        BUF_LIT(b, "\" style=\"display:inline-block;padding:10px 18px;background:#1d4ed8;color:#fff;border-radius:6px;"
                   "text-decoration:none\">");
        put_html(b, str_of(t->button));
        BUF_LIT(b, "</a></p>\r\n<p style=\"color:#555\">");
        fill(b, m, "{link}", put_html);
        BUF_LIT(b, "</p>\r\n");
    }
    if (t->after != NULL) {
        BUF_LIT(b, "<p style=\"color:#555\">");
        fill(b, m, t->after, put_html);
        BUF_LIT(b, "</p>\r\n");
    }
    BUF_LIT(b, "</body></html>\r\n");
}

/* ---- the message ---- */

static void put_lines(struct buf *b, str base64)
{
    for (size_t at = 0; at < base64.n; at += BASE64_LINE) {
        buf_str(b, str_slice(base64, at, at + BASE64_LINE));
        BUF_LIT(b, "\r\n");
    }
}

static err put_part(struct buf *b, struct arena *a, str boundary, const char *type, str body)
{
    str encoded = base64_encode(a, BASE64, body);
    if (encoded.p == NULL)
        return ERR_MEMORY;
    buf_f(b, "--%.*s\r\nContent-Type: %s; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n",
          STR_FMT(boundary), type);
    put_lines(b, encoded);
    return b->fail;
}

/* RFC 2047: encoded words of at most 75 characters, cut between characters; one fits any header. */
static err put_subject(struct buf *b, struct arena *a, str subject)
{
    enum { PIECE = 42 };
    for (size_t at = 0; at < subject.n;) {
        size_t n = 0, step;
        while (at + n < subject.n && (step = str_utf8_at(subject, at + n)) > 0 && n + step <= PIECE)
            n += step;
        if (n == 0)
            return ERR_INVALID;
        str piece = base64_encode(a, BASE64, str_slice(subject, at, at + n));
        if (piece.p == NULL)
            return ERR_MEMORY;
        buf_f(b, "%s=?utf-8?B?%.*s?=", at > 0 ? "\r\n " : "", STR_FMT(piece));
        at += n;
    }
    BUF_LIT(b, "\r\n");
    return b->fail;
}

/* RFC 5322: "Sat, 21 Nov 2026 06:00:00 +0000". */
static void put_date(struct buf *b, i64 now_us)
{
    static const char *const days[] = { "Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed" };
    static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                          "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    i64 day = now_us / DAY_US, second = now_us % DAY_US / SECOND_US;
    struct clock_date d = clock_date_of(day);
    buf_f(b, "Date: %s, %d %s %d %02d:%02d:%02d +0000\r\n", days[day % 7], d.day, months[d.month - 1], d.year,
          (int)(second / 3600), (int)(second / 60 % 60), (int)(second % 60));
}

bool mail_sender(str text, str *address)
{
    i64 open = str_find_char(text, '<', 0);
    str in = open < 0 ? text : str_slice(text, (size_t)open + 1, text.n - (str_ends(text, S(">")) ? 1 : 0));
    for (size_t i = 0; i < text.n; i++)
        if ((u8)text.p[i] < ' ' || (u8)text.p[i] > 126)
            return false;
    for (size_t i = 0; i < in.n; i++)
        if (in.p[i] == ' ' || in.p[i] == '<' || in.p[i] == '>')
            return false;
    *address = in;
    return str_find_char(in, '@', 1) > 0 && (open < 0 || str_ends(text, S(">")));
}

err mail_render(struct arena *a, const struct mail *m, str from, str id, i64 now_us, str *text)
{
    const struct template *t = template_of(m->template);
    struct buf b = { .arena = a }, subject = { .arena = a }, plain = { .arena = a }, html = { .arena = a };
    str address;
    if (t == NULL)
        return ERR_NOT_FOUND;
    if (!mail_sender(from, &address))
        return ERR_INVALID;
    fill(&subject, m, t->subject, put_plain);
    write_text(&plain, m, t);
    write_html(&html, m, t);
    TRY(subject.fail);
    TRY(plain.fail);
    TRY(html.fail);
    i64 at = str_find_char(address, '@', 0);
    buf_f(&b, "From: %.*s\r\nTo: <%.*s>\r\nSubject: ", STR_FMT(from), STR_FMT(m->to));
    TRY(put_subject(&b, a, buf_view(&subject)));
    put_date(&b, now_us);
    buf_f(&b,
          "Message-ID: <%.*s%.*s>\r\nMIME-Version: 1.0\r\nAuto-Submitted: auto-generated\r\n"
          "Content-Type: multipart/alternative; boundary=\"%.*s\"\r\n\r\n",
          STR_FMT(id), STR_FMT(str_slice(address, (size_t)at, address.n)), STR_FMT(id));
    TRY(put_part(&b, a, id, "text/plain", buf_view(&plain)));
    TRY(put_part(&b, a, id, "text/html", buf_view(&html)));
    buf_f(&b, "--%.*s--\r\n", STR_FMT(id));
    TRY(b.fail);
    *text = buf_view(&b);
    return OK;
}

/* ---- the job ---- */

err mail_prepare(struct arena *a, const struct mail *m, str *payload)
{
    struct buf words = { .arena = a }, b = { .arena = a };
    struct json_writer w = { .b = &words }, out = { .b = &b };
    str sealed;
    assert(template_of(m->template) != NULL);
    jw_begin(&w, '{');
    for (u32 i = 0; i < MAIL_WORDS_MAX && m->words[i].name.n > 0; i++) {
        jw_key(&w, m->words[i].name);
        jw_str(&w, m->words[i].value.p != NULL ? m->words[i].value : S(""));
    }
    jw_end(&w, '}');
    TRY(words.fail);
    TRY(seal_text(a, "mail", m->to, buf_view(&words), &sealed));
    jw_begin(&out, '{');
    jw_key(&out, S("template"));
    jw_str(&out, str_of(m->template));
    jw_key(&out, S("to"));
    jw_str(&out, m->to);
    jw_key(&out, S("words"));
    jw_str(&out, sealed);
    jw_end(&out, '}');
    *payload = buf_view(&b);
    return b.fail;
}

err mail_enqueue(struct tx *tx, struct arena *a, i64 now_us, str tenant_id, str payload)
{
    return jobs_enqueue(tx, a, now_us, "mail.send", tenant_id, payload, 0);
}

static err mail_open(const struct job *job, struct mail *m)
{
    struct json *payload, *words;
    str plain;
    TRY(json_parse(job->arena, job->payload, &payload, NULL));
    m->to = json_str(json_get(payload, S("to")));
    m->template = str_z(job->arena, json_str(json_get(payload, S("template"))));
    if (m->to.p == NULL || m->template == NULL)
        return ERR_DECODE;
    TRY(unseal_text(job->arena, "mail", m->to, json_str(json_get(payload, S("words"))), &plain));
    TRY(json_parse(job->arena, plain, &words, NULL));
    for (u32 i = 0; i < words->n && i < MAIL_WORDS_MAX; i++)
        m->words[i] = (struct pair){ words->members[i].key, json_str(&words->members[i].value) };
    return OK;
}

static str mail_folder(struct arena *a)
{
    return app.config.mail_dir.n > 0 ? app.config.mail_dir : strf(a, "%.*s/mail", STR_FMT(app.config.data));
}

/* Complete or not there: whoever watches the folder must not read half a letter. */
static err keep_file(struct arena *a, str id, str text)
{
    str folder = mail_folder(a);
    const char *dir = str_z(a, folder), *path = str_z(a, strf(a, "%.*s/%.*s.eml", STR_FMT(folder), STR_FMT(id))),
               *part = str_z(a, strf(a, "%.*s/.%.*s.part", STR_FMT(folder), STR_FMT(id)));
    if (dir == NULL || path == NULL || part == NULL)
        return ERR_MEMORY;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return ERR_UPSTREAM;
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ERR_UPSTREAM;
    bool good = write(fd, text.p, text.n) == (ssize_t)text.n && fsync(fd) == 0;
    good = close(fd) == 0 && good;
    if (good && rename(part, path) == 0)
        return OK;
    unlink(part);
    return ERR_UPSTREAM;
}

/* The job's id names the letter: sent twice after a crash, it is the same Message-ID. */
static err mail_run(const struct job *job)
{
    struct mail m = { 0 };
    str text, why = S("the folder cannot be written");
    TRY(mail_open(job, &m));
    TRY(mail_render(job->arena, &m, app.config.mail_from, job->id, job->now_us, &text));
    struct smtp_letter letter = { .to = m.to, .text = text };
    if (!mail_sender(app.config.mail_from, &letter.from))
        return ERR_INVALID;
    const struct smtp_server server = { app.config.smtp_url, app.config.smtp_ca_file };
    err e = server.url.n > 0 ? smtp_send(job->arena, &server, &letter, &why) : keep_file(job->arena, job->id, text);
    LOG(e == OK ? LOG_INFO : LOG_WARN, e == OK ? "mail.sent" : "mail.failed", LOG_STR("job", job->id),
        LOG_STR("template", str_of(m.template)), LOG_STR("cause", e == OK ? S("") : why));
    return e;
}

/* ---- under another SECRET_KEY ---- */

STMT(letter_page, "SELECT id, payload AS sealed FROM jobs WHERE id > $1 AND kind = 'mail.send' ORDER BY id LIMIT $2",
     .row = &sealed_row_table, .scope = SCOPE_SYSTEM);
STMT(letter_store, "UPDATE jobs SET payload = $3 WHERE id = $1 AND payload = $2", .scope = SCOPE_SYSTEM);

static err letter_again(struct arena *a, const struct sealed_row *row, str *out)
{
    struct json *payload;
    str words, fresh;
    TRY(json_parse(a, row->sealed, &payload, NULL));
    words = json_str(json_get(payload, S("words")));
    TRY(seal_again(a, "mail", json_str(json_get(payload, S("to"))), words, &fresh));
    *out = row->sealed;
    if (str_eq(words, fresh))
        return OK;
    *out = json_set(a, payload, S("words"), json_of_str(fresh)) ? json_text(a, payload) : STR_NONE;
    return out->p != NULL ? OK : ERR_MEMORY;
}
static const struct sealed_column sealed[] = { { "jobs.payload", &letter_page, &letter_store, letter_again } };

static err start(void)
{
    if (app.config.smtp_url.n == 0)
        LOG(LOG_WARN, "mail.files", LOG_STR("folder", mail_folder(app.arena)),
            LOG_STR("why", S("SMTP_URL is not set: letters are kept as files and sent to nobody")));
    return OK;
}

static const struct job_kind jobs[] = {
    { .name = "mail.send",
      .run = mail_run,
      .max_attempts = ATTEMPTS,
      .timeout_us = 2 * MINUTE_US,
      .doc = "Sends a letter by SMTP_URL, or keeps it in WEIR_MAIL_DIR" },
};

const struct module mail_module = {
    .name = "mail",
    .doc = "Letters to people",
    .jobs = jobs,
    .job_count = COUNT(jobs),
    .sealed = sealed,
    .sealed_count = COUNT(sealed),
    .start = start,
};
