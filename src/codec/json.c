/* json.c - the parser and the DOM.
 *
 * One pass over the text. The members of an open container gather on a stack beside the arena and move into it, in one piece
 * and of the right size, when the container closes: no growing arrays, no links, no second pass. Strings without escapes stay
 * where they are. Recursion is fine because the depth is bounded before it happens. */
#include "codec/json.h"
#include "base/code.h"
#include "base/map.h"
#include "codec/json_scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct json) == 16 && sizeof(struct json_member) == 32, "json.h promises this");

enum {
    STACK_FIRST = 4096, /* bytes of open members that need no allocation */
    PAIRWISE_MAX = 16,  /* members up to which comparing each with each beats hashing */
    NUMBER_MAX = 64,    /* bytes of a real that are copied without an allocation */
    EXACT_POWER = 22,   /* 10^22 is the last power of ten that a double holds exactly */
    MAX_DIGITS = 19,    /* that surely fit in 64 bits */
    FIRST_ROOM = 4,     /* items or members of a container that is being built; a power of two */
};

CODES(json_codes, CODE_ENTRY, { "json.syntax", "Something else is expected here" },
      { "json.truncated", "The text ends too early" }, { "json.trailing", "Something follows the value" },
      { "json.string", "A string holds a control character" },
      { "json.utf8", "A string holds bytes that are no UTF-8" },
      { "json.escape", "A string holds an invalid escape or half of a surrogate pair" },
      { "json.number", "A number is malformed" }, { "json.integer_range", "An integer needs more than 64 bits" },
      { "json.number_range", "A number is too large for a double" },
      { "json.duplicate_key", "An object holds the same key twice" }, { "json.depth", "Nested deeper than 64 levels" },
      { "json.too_large", "The text has 4 GiB or more" });

struct parser {
    const char *p, *start, *end;
    struct arena *arena;
    struct arena *scratch; /* NULL until the stack outgrows its first block */
    char *stack;
    size_t used, cap;
    int depth;
    const char *code; /* of the error */
    size_t offset;
};

const struct json json_null = { .type = JSON_NULL };

static err refuse(struct parser *ps, const char *at, const char *code)
{
    ps->offset = (size_t)(at - ps->start);
    ps->code = code;
    return ERR_DECODE;
}

/* ---- the stack of open members ---- */

static err stack_grow(struct parser *ps, size_t more)
{
    if (ps->scratch == NULL && (ps->scratch = arena_new(SIZE_MAX)) == NULL)
        return ERR_MEMORY;
    size_t cap = MAX(ps->cap * 4, ps->used + more);
    char *p = arena_alloc(ps->scratch, cap);
    if (p == NULL)
        return ERR_MEMORY;
    memcpy(p, ps->stack, ps->used);
    ps->stack = p;
    ps->cap = cap;
    return OK;
}

static inline err push(struct parser *ps, const void *p, size_t n)
{
    if (ps->cap - ps->used < n)
        TRY(stack_grow(ps, n));
    memcpy(ps->stack + ps->used, p, n);
    ps->used += n;
    return OK;
}

/* Moves what lies above `base` into the arena. */
static void *pop(struct parser *ps, size_t base)
{
    size_t n = ps->used - base;
    void *p = arena_alloc(ps->arena, n);
    if (p != NULL)
        memcpy(p, ps->stack + base, n);
    ps->used = base;
    return p;
}

/* ---- strings ---- */

static int hex4(const char *p)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)p[i], low = c | 0x20;
        int digit = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *to, u32 c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xC0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        *to++ = (char)(0xE0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    } else {
        *to++ = (char)(0xF0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3F));
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    }
    return to;
}

/* \uXXXX at p (behind the 'u'), with its second half when it is a surrogate. Bytes taken; 0 when malformed. */
static size_t unicode_escape(const char *p, const char *end, u32 *c)
{
    int high = end - p >= 4 ? hex4(p) : -1;
    if (high < 0)
        return 0;
    *c = (u32)high;
    if (high < 0xD800 || high > 0xDFFF)
        return 4;
    int low = high < 0xDC00 && end - p >= 10 && p[4] == '\\' && p[5] == 'u' ? hex4(p + 6) : -1;
    if (low < 0xDC00 || low > 0xDFFF)
        return 0;
    *c = 0x10000 + (((u32)high - 0xD800) << 10) + ((u32)low - 0xDC00);
    return 10;
}

/* p stands behind a backslash; returns what follows the escape, NULL when there is no such escape. */
static const char *unescape(const char *p, const char *end, char **to)
{
    static const char plain[128] = {
        ['"'] = '"', ['\\'] = '\\', ['/'] = '/', ['b'] = '\b', ['f'] = '\f', ['n'] = '\n', ['r'] = '\r', ['t'] = '\t'
    };
    unsigned char c = p < end ? (unsigned char)*p : 0;
    if (c < 128 && plain[c] != 0) {
        *(*to)++ = plain[c];
        return p + 1;
    }
    u32 code;
    size_t n = c == 'u' ? unicode_escape(p + 1, end, &code) : 0;
    if (n == 0)
        return NULL;
    *to = put_utf8(*to, code);
    return p + 1 + n;
}

/* The closing quote of the string whose text starts at p; escapes are only skipped. NULL when it never closes. */
static const char *closing_quote(const char *p, const char *end, u64 *high)
{
    for (;;) {
        p = json_scan(p, end, high);
        if (p == end || (unsigned char)*p < 0x20)
            return NULL;
        if (*p == '"')
            return p;
        p = end - p > 2 ? p + 2 : end;
    }
}

static err copy_unescaped(struct parser *ps, const char *from, const char *quote, str *out)
{
    u64 high = 0;
    char *copy = arena_alloc(ps->arena, (size_t)(quote - from)),
         *to = copy; /* no escape is shorter than what it means */
    if (copy == NULL)
        return ERR_MEMORY;
    for (const char *p = from; p < quote;) {
        const char *run = json_scan(p, quote, &high);
        if (run > p)
            memcpy(to, p, (size_t)(run - p));
        to += run - p;
        if (run == quote)
            break;
        p = unescape(run + 1, quote, &to);
        if (p == NULL)
            return refuse(ps, run, "json.escape");
    }
    *out = (str){ copy, (size_t)(to - copy) };
    return OK;
}

/* ps->p stands behind the opening quote. */
static inline err parse_string(struct parser *ps, str *out)
{
    u64 high = 0;
    const char *from = ps->p, *hit = json_scan(from, ps->end, &high);
    bool plain = hit < ps->end && *hit == '"';
    const char *quote = plain ? hit : closing_quote(hit, ps->end, &high);
    if (quote == NULL)
        return refuse(ps, from - 1, "json.string");
    str raw = { from, (size_t)(quote - from) };
    if (high != 0 && !str_utf8(raw))
        return refuse(ps, from - 1, "json.utf8");
    ps->p = quote + 1;
    if (plain)
        *out = raw;
    return plain ? OK : copy_unescaped(ps, from, quote, out);
}

/* ---- numbers ---- */

struct number {
    const char *from, *to;
    u64 digits; /* all of them as one integer; exact up to MAX_DIGITS */
    int digit_count, exponent;
    bool negative, real;
};

static inline bool is_digit(const struct parser *ps, const char *p)
{
    return p < ps->end && *p >= '0' && *p <= '9';
}

static inline const char *take_digits(const struct parser *ps, const char *p, struct number *n)
{
    const char *from = p;
    for (; is_digit(ps, p); p++)
        n->digits = n->digits * 10 + (u64)(*p - '0'); /* wraps beyond MAX_DIGITS, where nobody looks at it */
    n->digit_count += (int)MIN(p - from, 1 << 20);
    return p;
}

static const char *take_exponent(const struct parser *ps, const char *p, struct number *n)
{
    bool negative = p < ps->end && *p == '-';
    if (p < ps->end && (*p == '-' || *p == '+'))
        p++;
    if (!is_digit(ps, p))
        return NULL;
    int exponent = 0;
    for (; is_digit(ps, p); p++)
        exponent = exponent < 100000 ? exponent * 10 + (*p - '0') : exponent;
    n->exponent += negative ? -exponent : exponent;
    return p;
}

/* Finds where the number ends; false when it is none by RFC 8259 §6. */
static bool scan_number(const struct parser *ps, struct number *n)
{
    const char *p = n->from + n->negative;
    const char *first = p;
    p = take_digits(ps, p, n);
    if (p == first || (*first == '0' && p - first > 1))
        return false;
    if (p < ps->end && *p == '.') {
        const char *fraction = p + 1;
        p = take_digits(ps, fraction, n);
        if (p == fraction)
            return false;
        n->real = true;
        n->exponent -= (int)MIN(p - fraction, 1 << 20);
    }
    if (p < ps->end && (*p | 0x20) == 'e') {
        n->real = true;
        p = take_exponent(ps, p + 1, n);
    }
    n->to = p;
    return p != NULL;
}

/* Correctly rounded when both the digits and the power of ten are exact doubles (Clinger 1990): then one operation rounds once. */
static bool fast_real(const struct number *n, double *out)
{
    static const double powers[EXACT_POWER + 1] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    if (n->digit_count > MAX_DIGITS || n->digits > (u64)1 << 53 || n->exponent > EXACT_POWER ||
        n->exponent < -EXACT_POWER)
        return false;
    double value = (double)n->digits;
    value = n->exponent < 0 ? value / powers[-n->exponent] : value * powers[n->exponent];
    *out = n->negative ? -value : value;
    return true;
}

/* strtod() wants a NUL; no locale is ever set, so the point is a point. */
static err slow_real(struct parser *ps, const struct number *n, double *out)
{
    char small[NUMBER_MAX + 1] = "";
    size_t length = (size_t)(n->to - n->from);
    struct arena *large = length > NUMBER_MAX ? arena_new(SIZE_MAX) : NULL;
    char *text = large != NULL ? arena_alloc(large, length + 1) : length <= NUMBER_MAX ? small : NULL;
    if (text != NULL) {
        memcpy(text, n->from, length);
        *out = strtod(text, NULL);
    }
    arena_free(large);
    return text != NULL ? OK : ERR_MEMORY;
}

static err real_of(struct parser *ps, const struct number *n, struct json *out)
{
    double value;
    if (!fast_real(n, &value))
        TRY(slow_real(ps, n, &value));
    if (isinf(value))
        return refuse(ps, n->from, "json.number_range");
    *out = json_of_real(value);
    return OK;
}

static inline err parse_number(struct parser *ps, struct json *out)
{
    struct number n = { .from = ps->p, .negative = *ps->p == '-' };
    if (!scan_number(ps, &n))
        return refuse(ps, n.from, "json.number");
    ps->p = n.to;
    if (n.real)
        return real_of(ps, &n, out);
    if (n.digit_count > MAX_DIGITS || n.digits > (u64)INT64_MAX + n.negative)
        return refuse(ps, n.from, "json.integer_range");
    *out = json_of_i64((i64)(n.negative ? 0 - n.digits : n.digits));
    return OK;
}

/* ---- duplicate keys ---- */

static const struct json_member *duplicate_pairwise(const struct json_member *m, u32 n)
{
    for (u32 i = 1; i < n; i++)
        for (u32 j = 0; j < i; j++)
            if (m[i].key.n == m[j].key.n && memcmp(m[i].key.p, m[j].key.p, m[i].key.n) == 0)
                return &m[i];
    return NULL;
}

/* A table of indexes + 1 on the scratch stack; the hash is keyed, so nobody can choose collisions. */
static err duplicate_hashed(struct parser *ps, const struct json_member *m, u32 n, const struct json_member **twice)
{
    size_t slot_count = (size_t)1 << (64 - __builtin_clzll((u64)n * 2 - 1));
    size_t bytes = slot_count * sizeof(u32);
    if (ps->cap - ps->used < bytes)
        TRY(stack_grow(ps, bytes));
    u32 *slots = (u32 *)(void *)(ps->stack + ps->used);
    memset(slots, 0, bytes);
    for (u32 i = 0; i < n; i++) {
        size_t at = str_hash(m[i].key) & (slot_count - 1);
        for (; slots[at] != 0; at = (at + 1) & (slot_count - 1))
            if (str_eq(m[slots[at] - 1].key, m[i].key)) {
                *twice = &m[i];
                return OK;
            }
        slots[at] = i + 1;
    }
    return OK;
}

static err refuse_duplicates(struct parser *ps, const char *object, const struct json_member *m, u32 n)
{
    const struct json_member *twice = NULL;
    if (n <= PAIRWISE_MAX)
        twice = duplicate_pairwise(m, n);
    else
        TRY(duplicate_hashed(ps, m, n, &twice));
    if (twice == NULL)
        return OK;
    bool borrowed = twice->key.p > ps->start && twice->key.p < ps->end; /* an unescaped copy has no place in the text */
    return refuse(ps, borrowed ? twice->key.p - 1 : object, "json.duplicate_key");
}

/* ---- values ---- */

static err parse_value(struct parser *ps, struct json *out);

static inline void skip_blanks(struct parser *ps)
{
    const char *p = ps->p, *end = ps->end;
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    ps->p = p;
}

static inline bool take(struct parser *ps, char c)
{
    skip_blanks(ps);
    bool there = ps->p < ps->end && *ps->p == c;
    ps->p += there;
    return there;
}

static err syntax(struct parser *ps)
{
    return refuse(ps, ps->p, ps->p < ps->end ? "json.syntax" : "json.truncated");
}

/* ps->p stands behind the bracket, as in parse_object. */
static err parse_array(struct parser *ps, struct json *out)
{
    size_t base = ps->used;
    if (!take(ps, ']')) {
        do {
            struct json item;
            TRY(parse_value(ps, &item));
            TRY(push(ps, &item, sizeof item));
        } while (take(ps, ','));
        if (!take(ps, ']'))
            return syntax(ps);
    }
    struct json array = { .type = JSON_ARRAY, .n = (u32)((ps->used - base) / sizeof(struct json)) };
    array.items = pop(ps, base);
    if (array.items == NULL)
        return ERR_MEMORY;
    *out = array;
    return OK;
}

static err parse_member(struct parser *ps)
{
    struct json_member member;
    if (!take(ps, '"'))
        return syntax(ps);
    TRY(parse_string(ps, &member.key));
    if (!take(ps, ':'))
        return syntax(ps);
    TRY(parse_value(ps, &member.value));
    return push(ps, &member, sizeof member);
}

static err parse_object(struct parser *ps, struct json *out)
{
    const char *start = ps->p - 1;
    size_t base = ps->used;
    if (!take(ps, '}')) {
        do
            TRY(parse_member(ps));
        while (take(ps, ','));
        if (!take(ps, '}'))
            return syntax(ps);
    }
    struct json object = { .type = JSON_OBJECT, .n = (u32)((ps->used - base) / sizeof(struct json_member)) };
    object.members = pop(ps, base);
    if (object.members == NULL)
        return ERR_MEMORY;
    TRY(refuse_duplicates(ps, start, object.members, object.n));
    *out = object;
    return OK;
}

static err parse_container(struct parser *ps, bool object, struct json *out)
{
    if (ps->depth == JSON_MAX_DEPTH)
        return refuse(ps, ps->p, "json.depth");
    ps->depth++;
    ps->p++;
    err e = object ? parse_object(ps, out) : parse_array(ps, out);
    ps->depth--;
    return e;
}

static err parse_word(struct parser *ps, str word, struct json value, struct json *out)
{
    if (!str_starts((str){ ps->p, (size_t)(ps->end - ps->p) }, word))
        return syntax(ps);
    ps->p += word.n;
    *out = value;
    return OK;
}

static err parse_text(struct parser *ps, struct json *out)
{
    str text;
    ps->p++;
    TRY(parse_string(ps, &text));
    *out = json_of_str(text);
    return OK;
}

static err parse_value(struct parser *ps, struct json *out)
{
    skip_blanks(ps);
    switch (ps->p < ps->end ? *ps->p : 0) {
    case '"':
        return parse_text(ps, out);
    case '{':
        return parse_container(ps, true, out);
    case '[':
        return parse_container(ps, false, out);
    case 't':
        return parse_word(ps, S("true"), json_of_bool(true), out);
    case 'f':
        return parse_word(ps, S("false"), json_of_bool(false), out);
    case 'n':
        return parse_word(ps, S("null"), json_null, out);
    case '-':
    case '0' ... '9':
        return parse_number(ps, out);
    default:
        return syntax(ps);
    }
}

static err parse_whole(struct parser *ps, struct json *out)
{
    if ((size_t)(ps->end - ps->start) > UINT32_MAX) /* counts are 32 bit */
        return refuse(ps, ps->start, "json.too_large");
    TRY(parse_value(ps, out));
    skip_blanks(ps);
    return ps->p == ps->end ? OK : refuse(ps, ps->p, "json.trailing");
}

err json_parse(struct arena *a, str text, struct json **out, struct json_error *where)
{
    _Alignas(16) char stack[STACK_FIRST];
    const char *start = text.p != NULL ? text.p : "";
    struct parser ps = {
        .p = start, .start = start, .end = start + text.n, .arena = a, .stack = stack, .cap = sizeof stack
    };
    struct json *root = NEW(a, struct json);
    err e = root != NULL ? parse_whole(&ps, root) : ERR_MEMORY;
    arena_free(ps.scratch);
    if (e == OK)
        *out = root;
    else if (e == ERR_DECODE && where != NULL)
        *where = (struct json_error){ ps.offset, ps.code };
    return e;
}

err json_check(struct arena *a, str text, struct json_error *where)
{
    struct json *unused;
    struct arena_mark mark = arena_mark(a);
    err e = json_parse(a, text, &unused, where);
    arena_rewind(a, mark);
    return e;
}

/* ---- making ---- */

struct json json_of_str(str s)
{
    return s.p != NULL ? (struct json){ .type = JSON_STR, .n = (u32)s.n, .text = s.p } : json_null;
}

struct json json_of_i64(i64 v)
{
    return (struct json){ .type = JSON_INT, .integer = v };
}

struct json json_of_real(double v)
{
    return isfinite(v) ? (struct json){ .type = JSON_REAL, .real = v } : json_null;
}

struct json json_of_bool(bool v)
{
    return (struct json){ .type = JSON_BOOL, .boolean = v };
}

/* The items with room for one more behind them. Parsed containers have none to spare and move once; from then on the room is the
 * next power of two, so no capacity is stored. */
static void *room_for_one(struct arena *a, const struct json *j, void *old, size_t size)
{
    size_t n = j->n, room = FIRST_ROOM;
    if (n == UINT32_MAX)
        return NULL;
    if (j->roomy && n > 0 && (n < FIRST_ROOM || (n & (n - 1)) != 0))
        return old;
    while (room <= n)
        room *= 2;
    return arena_grow(a, old, n * size, room * size);
}

bool json_add(struct arena *a, struct json *array, struct json item)
{
    assert(array->type == JSON_ARRAY);
    struct json *items = room_for_one(a, array, array->items, sizeof *items);
    if (items == NULL)
        return false;
    items[array->n++] = item;
    array->items = items;
    array->roomy = true;
    return true;
}

static struct json_member *member_of(const struct json *object, str key)
{
    for (u32 i = 0; i < object->n; i++)
        if (str_eq(object->members[i].key, key))
            return &object->members[i];
    return NULL;
}

bool json_set(struct arena *a, struct json *object, str key, struct json value)
{
    assert(object->type == JSON_OBJECT);
    struct json_member *old = member_of(object, key);
    if (old != NULL) {
        old->value = value;
        return true;
    }
    struct json_member *members = room_for_one(a, object, object->members, sizeof *members);
    if (members == NULL)
        return false;
    members[object->n++] = (struct json_member){ key, value };
    object->members = members;
    object->roomy = true;
    return true;
}

static bool copy_into(struct arena *a, struct json *to, const struct json *from);

static bool copy_items(struct arena *a, struct json *to, const struct json *from)
{
    to->items = NEW_N(a, struct json, from->n);
    bool ok = to->items != NULL;
    for (u32 i = 0; ok && i < from->n; i++)
        ok = copy_into(a, &to->items[i], &from->items[i]);
    return ok;
}

static bool copy_members(struct arena *a, struct json *to, const struct json *from)
{
    to->members = NEW_N(a, struct json_member, from->n);
    bool ok = to->members != NULL;
    for (u32 i = 0; ok && i < from->n; i++) {
        to->members[i].key = str_dup(a, from->members[i].key);
        ok = to->members[i].key.p != NULL && copy_into(a, &to->members[i].value, &from->members[i].value);
    }
    return ok;
}

static bool copy_into(struct arena *a, struct json *to, const struct json *from)
{
    *to = *from;
    to->roomy = false;
    if (from->type == JSON_ARRAY)
        return copy_items(a, to, from);
    if (from->type == JSON_OBJECT)
        return copy_members(a, to, from);
    if (from->type == JSON_STR)
        return (to->text = str_dup(a, json_str(from)).p) != NULL;
    return true;
}

struct json *json_copy(struct arena *a, const struct json *j)
{
    struct json *copy = NEW(a, struct json);
    return copy != NULL && copy_into(a, copy, j) ? copy : NULL;
}

/* ---- looking ---- */

const struct json *json_get(const struct json *obj, str key)
{
    const struct json_member *m = obj != NULL && obj->type == JSON_OBJECT ? member_of(obj, key) : NULL;
    return m != NULL ? &m->value : NULL;
}

/* Whether a reference token, "~1" and "~0" taken back, is the key. */
static bool token_is(str token, str key)
{
    size_t k = 0;
    for (size_t i = 0; i < token.n; i++, k++) {
        char c = token.p[i];
        if (c == '~') {
            char code = i + 1 < token.n ? token.p[++i] : 0;
            if (code != '0' && code != '1')
                return false;
            c = code == '0' ? '~' : '/';
        }
        if (k == key.n || key.p[k] != c)
            return false;
    }
    return k == key.n;
}

static const struct json *step_into(const struct json *j, str token)
{
    i64 index;
    if (j->type == JSON_ARRAY) {
        bool canonical = token.n > 0 && token.p[0] != '-' && (token.p[0] != '0' || token.n == 1);
        return canonical && str_i64(token, 0, (i64)j->n - 1, &index) ? &j->items[index] : NULL;
    }
    for (u32 i = 0; j->type == JSON_OBJECT && i < j->n; i++)
        if (token_is(token, j->members[i].key))
            return &j->members[i].value;
    return NULL;
}

const struct json *json_at(const struct json *root, str pointer)
{
    if (pointer.n == 0)
        return root;
    if (pointer.p[0] != '/')
        return NULL;
    str token, rest = str_slice(pointer, 1, pointer.n);
    while (root != NULL && str_cut(&rest, '/', &token))
        root = step_into(root, token);
    return root;
}

/* ---- comparing ---- */

static bool numbers_equal(const struct json *a, const struct json *b)
{
    if (a->type == b->type)
        return a->type == JSON_INT ? a->integer == b->integer : a->real == b->real;
    i64 integer = a->type == JSON_INT ? a->integer : b->integer;
    double real = a->type == JSON_REAL ? a->real : b->real;
    return real >= -0x1p63 && real < 0x1p63 && real == trunc(real) && (i64)real == integer;
}

static bool items_equal(const struct json *a, const struct json *b)
{
    for (u32 i = 0; i < a->n; i++)
        if (!json_equal(&a->items[i], &b->items[i]))
            return false;
    return true;
}

/* Members in another order are looked up; a map keeps that linear for large objects, and without memory it is only slower. */
static bool members_equal(const struct json *a, const struct json *b)
{
    struct map index = { 0 };
    bool mapped = a->n > PAIRWISE_MAX, equal = true;
    for (u32 i = 0; mapped && i < b->n; i++)
        mapped = map_put(&index, b->members[i].key, &b->members[i].value) == OK;
    for (u32 i = 0; equal && i < a->n; i++) {
        str key = a->members[i].key;
        const struct json *other = str_eq(key, b->members[i].key) ? &b->members[i].value
                                   : mapped                       ? map_get(&index, key)
                                                                  : json_get(b, key);
        equal = other != NULL && json_equal(&a->members[i].value, other);
    }
    map_free(&index);
    return equal;
}

bool json_equal(const struct json *a, const struct json *b)
{
    bool numbers = (a->type == JSON_INT || a->type == JSON_REAL) && (b->type == JSON_INT || b->type == JSON_REAL);
    if (numbers)
        return numbers_equal(a, b);
    if (a->type != b->type || a->n != b->n)
        return false;
    switch ((enum json_type)a->type) {
    case JSON_BOOL:
        return a->boolean == b->boolean;
    case JSON_STR:
        return str_eq(json_str(a), json_str(b));
    case JSON_ARRAY:
        return items_equal(a, b);
    case JSON_OBJECT:
        return members_equal(a, b);
    case JSON_NULL:
    case JSON_INT:
    case JSON_REAL:
        break;
    }
    return true;
}

/* ---- merge patch ---- */

static bool merge_into(struct arena *a, struct json *out, const struct json *target, const struct json *patch);

/* out->members has room for one more. An index by name keeps large patches linear. */
static bool merge_member(struct arena *a, struct json *out, struct map *index, const struct json_member *change)
{
    struct json_member *old = map_get(index, change->key);
    if (change->value.type == JSON_NULL) {
        if (old != NULL)
            old->key = STR_NONE; /* taken out when all are merged */
        return true;
    }
    struct json_member *to = old != NULL && old->key.p != NULL ? old : &out->members[out->n];
    const struct json before = to == old ? old->value : json_null;
    if (!merge_into(a, &to->value, &before, &change->value))
        return false;
    to->key = change->key;
    out->n += to != old;
    return true;
}

static void drop_removed(struct json *object)
{
    u32 kept = 0;
    for (u32 i = 0; i < object->n; i++)
        if (object->members[i].key.p != NULL)
            object->members[kept++] = object->members[i];
    object->n = kept;
}

static bool merge_into(struct arena *a, struct json *out, const struct json *target, const struct json *patch)
{
    if (patch->type != JSON_OBJECT) {
        *out = *patch;
        return true;
    }
    u32 before = target->type == JSON_OBJECT ? target->n : 0;
    struct json merged = { .type = JSON_OBJECT, .n = before };
    struct map index = { .arena = a };
    merged.members = NEW_N(a, struct json_member, (size_t)before + patch->n);
    bool ok = merged.members != NULL;
    for (u32 i = 0; ok && i < before; i++) {
        merged.members[i] = target->members[i];
        ok = map_put(&index, target->members[i].key, &merged.members[i]) == OK;
    }
    for (u32 i = 0; ok && i < patch->n; i++)
        ok = merge_member(a, &merged, &index, &patch->members[i]);
    if (!ok)
        return false;
    drop_removed(&merged);
    *out = merged;
    return true;
}

const struct json *json_merge_patch(struct arena *a, const struct json *target, const struct json *patch)
{
    struct json *out = NEW(a, struct json);
    return out != NULL && merge_into(a, out, target != NULL ? target : &json_null, patch) ? out : NULL;
}
