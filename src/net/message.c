/* message.c - see message.h.
 *
 * HTTP/1 and HTTP/2 ask the same questions here, so that neither is the lenient way in. */
#include "net/message.h"

#include <llhttp.h>

const struct refusal_text http_refusals[REFUSALS] = {
#define X(name, status, code, text) [name] = { status, code, text },
    HTTP_REFUSALS(X)
#undef X
};

/* RFC 9110 5.6.2 */
static const bool token[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};
/* RFC 3986 3.2.2 and a port. A comma is legal in a reg-name, but here it only shows that a proxy joined two fields. */
static const bool host_char[256] = {
    ['!'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1,        ['('] = 1,         [')'] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1, [':'] = 1,         [';'] = 1,         ['='] = 1,
    ['['] = 1, [']'] = 1, ['_'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};

static bool all_of(const bool *set, str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!set[(u8)s.p[i]])
            return false;
    return s.n > 0;
}

bool text_is_token(str s)
{
    return all_of(token, s);
}

/* Branch-free, so that the compiler can do many bytes at once: this runs over every byte of every head. */
bool text_has_control(str s)
{
    u8 bad = 0;
    for (size_t i = 0; i < s.n; i++) {
        u8 c = (u8)s.p[i];
        bad |= (u8)((c < 0x20) & (c != '\t')) | (u8)(c == 0x7f);
    }
    return bad != 0;
}

bool http_field_ok(str name, str value)
{
    return all_of(token, name) && !text_has_control(value);
}

static bool visible(str s)
{
    u8 bad = 0;
    for (size_t i = 0; i < s.n; i++) {
        u8 c = (u8)s.p[i];
        bad |= (u8)(c <= 0x20) | (u8)(c >= 0x7f) | (u8)(c == '#');
    }
    return bad == 0;
}

enum refusal check_target(str method, str target, const struct http_limits *limits)
{
    if (target.n > limits->target_bytes)
        return REFUSE_TARGET_SIZE;
    if (target.n == 0 || !visible(target))
        return REFUSE_TARGET;
    bool asterisk = str_eq(target, S("*")) && str_eq(method, S("OPTIONS"));
    bool authority = str_eq(method, S("CONNECT"));
    return target.p[0] == '/' || asterisk || authority ? REFUSE_NONE : REFUSE_TARGET;
}

bool http_host_ok(str host)
{
    return all_of(host_char, host);
}

enum refusal check_host(str host)
{
    return http_host_ok(host) ? REFUSE_NONE : REFUSE_HOST;
}

enum refusal check_expect(str value, bool *expects)
{
    if (!str_eq_nocase(value, S("100-continue")))
        return REFUSE_EXPECT;
    *expects = true;
    return REFUSE_NONE;
}

bool method_of(str text, enum http_method *out)
{
    static const char *const known[] = {
#define X(number, name, string) #string,
        HTTP_METHOD_MAP(X)
#undef X
    };
    for (enum http_method m = GET; m < HTTP_OTHER; m++)
        if (str_eq(text, str_of(http_method_name(m)))) {
            *out = m;
            return true;
        }
    *out = HTTP_OTHER;
    for (size_t i = 0; i < COUNT(known); i++)
        if (str_eq(text, str_of(known[i])))
            return true;
    return false;
}

void split_target(struct http_request *rq)
{
    i64 mark = str_find_char(rq->target, '?', 0);
    rq->path = mark >= 0 ? str_slice(rq->target, 0, (size_t)mark) : rq->target;
    rq->query = mark >= 0 ? str_slice(rq->target, (size_t)mark + 1, rq->target.n) : STR_NONE;
}
