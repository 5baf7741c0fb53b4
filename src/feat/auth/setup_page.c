/* setup_page.c - the pages behind links: the printed one of setup, and those of letters (invitation, new password), which must work without a console.
 *
 * They load nothing: the one script and the one style of each are in it, and its policy names them by their hashes, which are taken at start from the very
 * bytes that are sent. The token stays in the browser: the page reads it from its address and takes it out of sight. */
#include "feat/auth/auth_parts.h"

#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"
#include "feat/users/users.h"

extern const char setup_html[], link_html[]; /* by tools/embed.py */

struct setup_query {
    struct presence has;
    str token;
};
static const struct field query_fields[] = {
    FIELD(struct setup_query, token, F_STR, .max = 200,
          .doc = "The one-time token; read by the page, not by the server"),
};
const struct table setup_query_table = TABLE("SetupQuery", struct setup_query, query_fields);

PROBLEM_SHARED(setup_over, "auth.setup_over", ERR_NOT_FOUND, "Weir is set up already");

/* Made at start, constant afterwards. */
static str policy, link_policy;

/* The CSP source of what stands between the two texts. */
static str source_of(struct arena *a, str page, str open, str close)
{
    i64 from = str_find(page, open, 0), to = from < 0 ? -1 : str_find(page, close, (size_t)from);
    if (to < 0)
        return STR_NONE;
    u8 hash[SHA256_BYTES];
    hash_sha256(str_slice(page, (size_t)from + open.n, (size_t)to), hash);
    str text = base64_encode(a, BASE64, (str){ (const char *)hash, sizeof hash });
    return text.p != NULL ? strf(a, "'sha256-%.*s'", STR_FMT(text)) : STR_NONE;
}

static err policy_of(struct arena *a, str page, str *out)
{
    str script = source_of(a, page, S("<script>"), S("</script>"));
    str style = source_of(a, page, S("<style>"), S("</style>"));
    if (script.p == NULL || style.p == NULL)
        return ERR_MEMORY;
    *out = strf(a,
                "default-src 'none'; script-src %.*s; style-src %.*s; connect-src 'self'; form-action 'none'; "
                "base-uri 'none'; frame-ancestors 'none'",
                STR_FMT(script), STR_FMT(style));
    return out->p != NULL ? OK : ERR_MEMORY;
}

err setup_page_start(struct arena *a)
{
    TRY(policy_of(a, str_of(setup_html), &policy));
    return policy_of(a, str_of(link_html), &link_policy);
}

err link_page(struct req *rq)
{
    reply_header(rq, "Content-Security-Policy", link_policy);
    reply_header(rq, "Cache-Control", S("no-store"));
    return reply_raw(rq, 200, S("text/html; charset=utf-8"), str_of(link_html));
}

err setup_page(struct req *rq)
{
    bool any;
    TRY(users_any(rq->tx, &any));
    if (any)
        return problem(rq, &setup_over, "The link works once; sign in, or ask the owner to let you in");
    reply_header(rq, "Content-Security-Policy", policy);
    reply_header(rq, "Cache-Control", S("no-store"));
    return reply_raw(rq, 200, S("text/html; charset=utf-8"), str_of(setup_html));
}
