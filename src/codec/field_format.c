/* field_format.c - the named formats of strings. Each refuses what it does not know; none repairs. */
#include "codec/field_impl.h"
#include "codec/time.h"
#include "codec/typeid.h"
#include "codec/url.h"

#include <string.h>

enum { LOCAL_PART_MAX = 64, LABEL_MAX = 63 };

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool made_of(str s, const char *more)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_alnum(s.p[i]) && (s.p[i] == 0 || strchr(more, s.p[i]) == NULL))
            return false;
    return true;
}

static bool valid_id(struct arena *a, const struct field *f, str s)
{
    return typeid_valid(s, f->prefix);
}

/* Dots stand between characters, never at an end or twice. */
static bool dots_inside(str s)
{
    return s.n > 0 && s.p[0] != '.' && s.p[s.n - 1] != '.' && str_find(s, S(".."), 0) < 0;
}

static bool valid_domain(str s)
{
    for (str label; str_cut(&s, '.', &label);)
        if (label.n == 0 || label.n > LABEL_MAX || !made_of(label, "-") || label.p[0] == '-' ||
            label.p[label.n - 1] == '-')
            return false;
    return true;
}

/* RFC 5321 without quoted local parts, address literals and comments: nobody has such an address, attackers do. */
static bool valid_email(struct arena *a, const struct field *f, str s)
{
    i64 at = str_find_char(s, '@', 0);
    if (at < 1 || at > LOCAL_PART_MAX || s.n > FIELD_EMAIL_MAX)
        return false;
    str local = str_slice(s, 0, (size_t)at), domain = str_slice(s, (size_t)at + 1, s.n);
    return dots_inside(local) && made_of(local, ".!#$%&'*+/=?^_`{|}~-") && valid_domain(domain);
}

/* An absolute URI: a scheme, then something of legal bytes. For http and https the whole grammar holds. */
static bool valid_uri(struct arena *a, const struct field *f, str s)
{
    struct url unused;
    i64 colon = str_find_char(s, ':', 0);
    if (colon < 1 || !made_of(str_slice(s, 0, (size_t)colon), "+-.") || (s.p[0] >= '0' && s.p[0] <= '9'))
        return false;
    str scheme = str_slice(s, 0, (size_t)colon), rest = str_slice(s, (size_t)colon + 1, s.n);
    if (str_eq_nocase(scheme, S("http")) || str_eq_nocase(scheme, S("https")))
        return url_parse(a, s, &unused) == OK;
    return rest.n > 0 && made_of(rest, "-._~:/?#[]@!$&'()*+,;=%");
}

static bool valid_name(struct arena *a, const struct field *f, str s)
{
    return s.n > 0 && made_of(s, "_") && !(s.p[0] >= '0' && s.p[0] <= '9');
}

static bool valid_slug(struct arena *a, const struct field *f, str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '-' && !(s.p[i] >= 'a' && s.p[i] <= 'z') && !(s.p[i] >= '0' && s.p[i] <= '9'))
            return false;
    return s.n > 0 && s.p[0] != '-' && s.p[s.n - 1] != '-' && str_find(s, S("--"), 0) < 0;
}

static bool valid_json_pointer(struct arena *a, const struct field *f, str s)
{
    for (i64 at = str_find_char(s, '~', 0); at >= 0; at = str_find_char(s, '~', (size_t)at + 1)) {
        char code = (size_t)at + 1 < s.n ? s.p[at + 1] : 0;
        if (code != '0' && code != '1')
            return false;
    }
    return s.n == 0 || s.p[0] == '/';
}

static bool valid_date_time(struct arena *a, const struct field *f, str s)
{
    i64 unused;
    return time_parse(s, &unused);
}

static const struct field_format formats[] = {
    { "id", valid_id, "an id", NULL, "[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}$", 90 },
    { "email", valid_email, "an e-mail address", "email", NULL, FIELD_EMAIL_MAX },
    { "uri", valid_uri, "an absolute URI", "uri", NULL, 0 },
    { "name", valid_name, "a name of letters, digits and _ that does not begin with a digit", NULL,
      "^[A-Za-z_][A-Za-z0-9_]*$", 0 },
    { "slug", valid_slug, "a slug of a-z and 0-9 with single hyphens inside", NULL, "^[a-z0-9]+(-[a-z0-9]+)*$", 0 },
    { "json-pointer", valid_json_pointer, "a JSON pointer (RFC 6901)", "json-pointer", NULL, 0 },
    { "date-time", valid_date_time, "a time by RFC 3339", "date-time", NULL, 0 },
};

const struct field_format *field_format(const char *name)
{
    for (size_t i = 0; i < COUNT(formats); i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}
