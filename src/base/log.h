/* log.h - one line per event on stderr: JSON, or text for people. The only I/O of base.
 *
 * A fault of ours is logged once, at the edge, with its cause and request id. Never log a secret or a body. A line is at most
 * 8 KiB (longer values are cut) and is written by one write(2), so lines of threads never mix.
 *
 *     LOG(LOG_WARN, "jobs.failed", LOG_STR("job", id), LOG_INT("attempt", n));  */
#pragma once

#include "base/str.h"

enum log_format { LOG_JSON, LOG_TEXT, LOG_OFF };
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    const char *key;
    enum { LOG_KIND_STR, LOG_KIND_INT } kind;
    str text;
    i64 number;
};
#define LOG_STR(k, v) ((struct log_field){ .key = (k), .kind = LOG_KIND_STR, .text = (v) })
#define LOG_INT(k, v) ((struct log_field){ .key = (k), .kind = LOG_KIND_INT, .number = (v) })

/* Before the threads start. */
void log_setup(enum log_format format, enum log_level least);
bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count);
#define LOG(level, event, ...)                                                                 \
    do {                                                                                       \
        if (log_enabled(level))                                                                \
            log_write((level), (event), (struct log_field[]){ __VA_ARGS__ },                   \
                      sizeof((struct log_field[]){ __VA_ARGS__ }) / sizeof(struct log_field)); \
    } while (0)
