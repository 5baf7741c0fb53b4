/* conditional.c - see conditional.h. The tag is a hash of the object's state, never of its bytes: so it can be compared on the writer, where nothing
 * is encoded, and it is the same before and after a change of how things are shown.
 *
 * An object that is not there passes every check: its handler says 404, which is what a precondition may not hide. */
#include "core/conditional.h"

#include "codec/hash.h"
#include "core/pipeline.h"

#include <string.h>

static const struct field fields[] = { FIELD(struct etag_row, state, F_STR, .doc = "What an ETag is made of") };
const struct table etag_table = TABLE("ObjectState", struct etag_row, fields, .doc = "What an ETag is made of");

/* -- fields -------------------------------------------------------------------------------------------------------- */

/* A strong tag names bytes, so each coding has one of its own. */
static str without_coding(str tag)
{
    for (enum coding c = CODING_GZIP; c <= CODING_BROTLI; c++) {
        str name = coding_name(c);
        if (str_ends(tag, name) && tag.n > name.n && tag.p[tag.n - name.n - 1] == '-')
            return str_slice(tag, 0, tag.n - name.n - 1);
    }
    return tag;
}

bool etag_matches(str field, str etag, bool weak)
{
    field = str_trim(field);
    if (str_eq(field, S("*")))
        return true;
    while (field.n > 0) {
        bool is_weak = str_starts(field, S("W/"));
        size_t open = is_weak ? 2 : 0;
        i64 close = field.n > open && field.p[open] == '"' ? str_find_char(field, '"', open + 1) : -1;
        if (close < 0) /* not a tag: nothing behind it can be trusted to be one */
            return false;
        str tag = str_slice(field, open + 1, (size_t)close);
        if ((weak || !is_weak) && str_eq(without_coding(tag), etag))
            return true;
        field = str_trim(str_slice(field, (size_t)close + 1, field.n));
        if (field.n > 0 && field.p[0] != ',')
            return false;
        field = str_trim(str_slice(field, 1, field.n));
    }
    return false;
}

/* A field may come in several lines; one that names the tag is enough. */
static bool named(const struct http_request *http, str name, str etag, bool weak)
{
    for (u32 i = 0; i < http->header_count; i++)
        if (str_eq(http->headers[i].name, name) && etag_matches(http->headers[i].value, etag, weak))
            return true;
    return false;
}

static bool given(const struct request_core *c, str name)
{
    return http_header(c->rq.http, name).p != NULL;
}

/* -- state --------------------------------------------------------------------------------------------------------- */

/* The settings and the version of the program show in answers as well. */
static void tag_of(str state, struct request_core *c)
{
    u8 hash[SHA256_BYTES];
    static const char digits[] = "0123456789abcdef";
    const str parts[] = { state, S(WEIR_VERSION), app.config.public_url };
    hash_sha256_parts(parts, COUNT(parts), hash);
    for (size_t i = 0; i < ETAG_BYTES / 2; i++) {
        c->etag[2 * i] = digits[hash[i] >> 4];
        c->etag[2 * i + 1] = digits[hash[i] & 15];
    }
    c->has_etag = true;
}

static str tag(const struct request_core *c)
{
    return (str){ c->etag, ETAG_BYTES };
}

/* Asks for the state; its answer rides with the next statement, if there is one before it is wanted. */
static err ask(struct request_core *c, const struct route *r, const str *params)
{
    struct arg list[1 + COUNT(c->rq.params)] = { TENANT(&c->rq) };
    u32 n = 1;
    c->has_etag = false;
    while (n < COUNT(list) && route_param_name(r, n - 1).p != NULL) {
        list[n] = STR(params[n - 1]);
        n++;
    }
    TRY(db_ask(c->rq.tx, r->etag, 1, &c->etag_ahead, (struct args){ list, n }));
    c->asked_etag = true;
    return OK;
}

static err answer(struct request_core *c)
{
    struct etag_row row;
    c->asked_etag = false;
    err e = db_answer_row(c->rq.tx, &c->etag_ahead, &row);
    if (e == OK)
        tag_of(row.state, c);
    return e == ERR_NOT_FOUND ? OK : e;
}

static err load(struct request_core *c, const struct route *r, const str *params)
{
    TRY(ask(c, r, params));
    return answer(c);
}

void reply_state(struct req *rq, str state)
{
    if (state.p != NULL) /* else there was no memory for it, and the statement is asked */
        tag_of(state, rq->core);
}

static err changed(struct req *rq)
{
    return problem(rq, &problem_of_class[ERR_PRECONDITION],
                   "The object is not the one that If-Match or If-None-Match names; "
                   "read it again");
}

/* -- before and after the handler ---------------------------------------------------------------------------------- */

static err compare(struct request_core *c)
{
    bool reading = c->rq.route->work != W_WRITE;
    if (given(c, S("if-match")) && !named(c->rq.http, S("if-match"), tag(c), false))
        return changed(&c->rq);
    if (!given(c, S("if-none-match")) || !named(c->rq.http, S("if-none-match"), tag(c), true))
        return OK;
    return reading ? reply_empty(&c->rq, 304) : changed(&c->rq);
}

bool conditional_asked(const struct request_core *c)
{
    return given(c, S("if-match")) || given(c, S("if-none-match"));
}

err conditional_before(struct request_core *c)
{
    const struct route *r = c->rq.route;
    bool asked = conditional_asked(c);
    c->has_etag = c->asked_etag = false;
    if (r->etag == NULL || (!asked && (r->work == W_WRITE || r->flags & R_TELLS_STATE)))
        return OK;
    TRY(ask(c, r, c->rq.params));
    if (!asked)
        return OK;
    TRY(answer(c));
    return c->has_etag ? compare(c) : OK;
}

err conditional_kept(struct request_core *c, str etag)
{
    assert(etag.n == ETAG_BYTES);
    memcpy(c->etag, etag.p, ETAG_BYTES);
    c->has_etag = true;
    return compare(c);
}

err conditional_read(struct request_core *c)
{
    const struct route *r = c->rq.route;
    if (c->asked_etag)
        return answer(c);
    bool untold = r->flags & R_TELLS_STATE && !c->has_etag && c->rq.answer.status == 200;
    return untold ? load(c, r, c->rq.params) : OK;
}

static str location_of(const struct answer *a)
{
    for (u32 i = 0; i < a->header_count; i++)
        if (str_eq(a->headers[i].name, S("Location")))
            return a->headers[i].value;
    return STR_NONE;
}

/* What was made is found as a client would find it. */
static err made(struct request_core *c)
{
    struct endpoint *e = NULL;
    str params[6] = { STR_NONE };
    u32 allowed;
    str location = location_of(&c->rq.answer);
    if (location.p == NULL)
        return OK;
    TRY(route_lookup(c->rq.arena, GET, location, &e, params, &allowed));
    return e != NULL && e->route->etag != NULL ? load(c, e->route, params) : OK;
}

err conditional_after(struct request_core *c)
{
    const struct route *r = c->rq.route;
    int status = c->rq.answer.problem == NULL ? c->rq.answer.status : 0;
    c->has_etag = false;
    if (status == 201)
        return made(c);
    return status == 200 && r->etag != NULL ? load(c, r, c->rq.params) : OK;
}
