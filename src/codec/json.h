/* json.h - JSON (RFC 8259), strict: parse into an arena DOM, write, and a small streaming writer.
 *
 * Refused: duplicate keys, invalid UTF-8, lone surrogates (escaped or not), depth above 64, integers outside of 64 bit signed
 * (so that none is ever changed), numbers that overflow a double, NUL bytes, trailing bytes. `1` is an integer, `1.0` and `1e0` are reals.
 * Key order is kept. A node is 16 bytes; strings without escapes borrow from the source text, which must outlive the DOM. */
#pragma once

#include "base/buf.h"

enum { JSON_MAX_DEPTH = 64 };
enum json_type { JSON_NULL, JSON_BOOL, JSON_INT, JSON_REAL, JSON_STR, JSON_ARRAY, JSON_OBJECT };

struct json {
    u8 type;
    bool boolean;
    bool roomy; /* json_add and json_set left room behind the last one, up to the next power of two */
    u32 n;      /* bytes of a string, items of an array, members of an object */
    union {
        i64 integer;
        double real;
        const char *text;
        struct json *items;
        struct json_member *members;
    };
};
struct json_member {
    str key;
    struct json value;
};

struct json_error {
    size_t offset; /* byte in the source */
    const char
        *code; /* "json.duplicate_key", "json.syntax", "json.depth", "json.utf8", "json.integer_range", … static */
};

/* Parses the whole text. ERR_DECODE fills *where; ERR_MEMORY when the arena is full. */
err json_parse(struct arena *a, str text, struct json **out, struct json_error *where) MUST;
/* As json_parse, but only checks: needs scratch memory from the arena for key sets, gives nothing back. */
err json_check(struct arena *a, str text, struct json_error *where) MUST;

static inline str json_str(const struct json *j)
{
    return j != NULL && j->type == JSON_STR ? (str){ j->text, j->n } : STR_NONE;
}
/* Member of an object by name; NULL when absent or when obj is no object (or NULL). Hashed above 16 members is not
 * promised: callers that look up much build a map. */
const struct json *json_get(const struct json *obj, str key);
/* By RFC 6901 pointer ("" is the root); NULL when there is nothing. */
const struct json *json_at(const struct json *root, str pointer);
bool json_equal(const struct json *a, const struct json *b);
/* Number of bytes that json_write would make, without writing. */
size_t json_size(const struct json *j);
/* A deep copy that borrows nothing. NULL at the cap. */
struct json *json_copy(struct arena *a, const struct json *j) MUST;

/* Making nodes. Strings are borrowed. Members/items are appended; false at the cap. A container that is added to must not be
 * shared: a node copied by `=` has the same items. */
struct json json_of_str(str s);
struct json json_of_i64(i64 v);
struct json json_of_real(double v); /* NaN and infinities become null: JSON has none */
struct json json_of_bool(bool v);
extern const struct json json_null;
bool json_add(struct arena *a, struct json *array, struct json item) MUST;
bool json_set(struct arena *a, struct json *object, str key, struct json value) MUST; /* replaces */

/* RFC 7396: what `target` becomes under `patch`. Shares nodes with both. NULL at the cap. */
const struct json *json_merge_patch(struct arena *a, const struct json *target, const struct json *patch) MUST;

/* Compact text. Reals are written shortest-round-trip and always with '.', 'e' or both. */
void json_write(struct buf *b, const struct json *j);
/* json_write into the arena; {NULL,0} at the cap. */
str json_text(struct arena *a, const struct json *j);
/* The text in quotes, escaped; valid UTF-8 is the caller's promise (else U+FFFD takes the place of what is not). */
void json_put_str(struct buf *b, str s);
void json_put_real(struct buf *b, double v);

/* Appends the RFC 6901 escaped reference token ("/" + key). */
str json_pointer_key(struct arena *a, str pointer, str key);
str json_pointer_index(struct arena *a, str pointer, size_t index);

/* Streaming: keeps track of commas only; the caller pairs begin and end. */
struct json_writer {
    struct buf *b;
    bool comma;
};
void jw_begin(struct json_writer *w, char bracket); /* '{' or '[' */
void jw_end(struct json_writer *w, char bracket);   /* '}' or ']' */
void jw_key(struct json_writer *w, str key);
void jw_str(struct json_writer *w, str s); /* STR_NONE writes null */
void jw_i64(struct json_writer *w, i64 v);
void jw_real(struct json_writer *w, double v);
void jw_bool(struct json_writer *w, bool v);
void jw_null(struct json_writer *w);
void jw_raw(struct json_writer *w, str json); /* text that is JSON already; "" or STR_NONE writes null */
void jw_json(struct json_writer *w, const struct json *j);
