/* log.c - a line is composed on the stack and handed to the kernel by one write(2).
 *
 * A string gets at most half of the room that is left, so a long one is cut but never hides the fields behind it; a field that
 * does not fit even so is dropped and the line says "cut". Both formats quote alike: no value can forge a line or a field. */
#include "base/log.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 8192, TAIL = sizeof ",\"cut\":true}\n" };

static enum log_format log_form = LOG_TEXT; /* both are written before the threads start */
static enum log_level log_least = LOG_INFO;

static const char *const level_names[] = { "debug", "info", "warn", "error" };
static const char *const level_words[] = { "DEBUG ", "INFO  ", "WARN  ", "ERROR " };

struct line {
    char text[LINE_MAX_BYTES];
    size_t n;
};

static size_t room(const struct line *l)
{
    return LINE_MAX_BYTES - TAIL - l->n;
}

static void put(struct line *l, const char *p, size_t n)
{
    memcpy(l->text + l->n, p, n);
    l->n += n;
}

static void put_z(struct line *l, const char *z)
{
    put(l, z, strlen(z));
}

/* One character of s as it stands in quotes, into out; its length in s is added to *i. */
static size_t quote(str s, size_t *i, bool utf8, char out[8])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char c = (unsigned char)s.p[*i];
    if (c >= 0x80 && utf8) {
        size_t n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
        memcpy(out, s.p + *i, n);
        *i += n;
        return n;
    }
    *i += 1;
    if (c >= 0x80) {
        memcpy(out, "\xEF\xBF\xBD", 3); /* U+FFFD */
        return 3;
    }
    if (c < 0x20 || c == 0x7F) {
        memcpy(out, (char[]){ '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] }, 6);
        return 6;
    }
    out[0] = '\\';
    out[c == '"' || c == '\\'] = (char)c;
    return c == '"' || c == '\\' ? 2 : 1;
}

static void put_quoted(struct line *l, str s, size_t limit)
{
    char one[8];
    bool utf8 = str_utf8(s);
    put(l, "\"", 1);
    for (size_t i = 0, end = l->n + limit; i < s.n;) {
        size_t n = quote(s, &i, utf8, one);
        if (l->n + n > end) {
            put_z(l, "…");
            break;
        }
        put(l, one, n);
    }
    put(l, "\"", 1);
}

static void put_number(struct line *l, i64 value)
{
    char digits[24], *p = digits + sizeof digits;
    u64 rest = value < 0 ? 0 - (u64)value : (u64)value;
    do
        *--p = (char)('0' + rest % 10);
    while ((rest /= 10) != 0);
    if (value < 0)
        *--p = '-';
    put(l, p, (size_t)(digits + sizeof digits - p));
}

/* False when the field does not fit. */
static bool put_field(struct line *l, const struct log_field *f)
{
    bool json = log_form == LOG_JSON;
    size_t overhead = strlen(f->key) + 32; /* quotes, comma, an ellipsis or a number */
    if (overhead > room(l))
        return false;
    put_z(l, json ? ",\"" : " ");
    put_z(l, f->key);
    put_z(l, json ? "\":" : "=");
    if (f->kind == LOG_KIND_INT)
        put_number(l, f->number);
    else if (f->text.p == NULL)
        put_z(l, "null");
    else
        put_quoted(l, f->text, (room(l) - 16) / 2);
    return true;
}

static void put_head(struct line *l, enum log_level level, const char *event)
{
    bool json = log_form == LOG_JSON;
    char time[CLOCK_TEXT];
    clock_text(clock_now_us(), time);
    put_z(l, json ? "{\"time\":\"" : "");
    put(l, time, sizeof time);
    put_z(l, json ? "\",\"level\":\"" : " ");
    put_z(l, json ? level_names[level] : level_words[level]);
    put_z(l, json ? "\",\"event\":\"" : "");
    put(l, event, strnlen(event, 256));
    put_z(l, json ? "\"" : "");
}

void log_setup(enum log_format format, enum log_level least)
{
    log_form = format;
    log_least = least;
}

bool log_enabled(enum log_level level)
{
    return log_form != LOG_OFF && level >= log_least;
}

void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count)
{
    if (!log_enabled(level))
        return;
    bool json = log_form == LOG_JSON, whole = true;
    int saved = errno; /* logging an error must not change it */
    struct line l;
    l.n = 0;
    put_head(&l, level, event);
    for (size_t i = 0; i < count; i++)
        whole &= put_field(&l, &fields[i]);
    if (!whole)
        put_z(&l, json ? ",\"cut\":true" : " cut");
    put_z(&l, json ? "}\n" : "\n");
    if (write(STDERR_FILENO, l.text, l.n) < 0)
        errno = 0; /* there is no one left to tell */
    errno = saved;
}
