/* openapi.c - the published contract, written from the same rows that serve: routes, tables, problems.
 *
 * A status is listed for a route only when the pipeline can really answer it there; a client that generates code from the
 * document should not have to handle what cannot happen. */
#include "base/log.h"
#include "base/map.h"
#include "core/auth.h"
#include "core/pipeline.h"

#include <stdio.h>
#include <string.h>

enum { SCRATCH_BYTES = 32 << 20, CODES_MAX = 32 };

static const struct problem body_size = { "http.body_size", ERR_TOO_LARGE, "The body is larger than allowed here" };

/* Made at start, constant afterwards. */
static struct packed document;

struct component {
    const struct table *table;
    enum field_schema how;
    str name;
};
struct operation {
    const struct module *module;
    const struct route *route;
    enum http_method method;
    struct operation *next; /* of the same path */
};
struct doc {
    struct arena *scratch;
    struct json_writer *w;
    struct map components; /* name → struct component, in the order of their first use */
    struct map paths;      /* path → first struct operation */
    struct map ids;        /* operationId → anything */
    err fail;
};

/* -- small words --------------------------------------------------------------------------------------------------- */

static void text(struct doc *d, str key, str value)
{
    jw_key(d->w, key);
    jw_str(d->w, value);
}

static void open_key(struct doc *d, str key, char bracket)
{
    jw_key(d->w, key);
    jw_begin(d->w, bracket);
}

static void status_key(struct doc *d, int status)
{
    char digits[12];
    snprintf(digits, sizeof digits, "%d", status);
    jw_key(d->w, str_of(digits));
}

static void need_component(void *ctx, const struct table *t, enum field_schema how)
{
    struct doc *d = ctx;
    str name = field_schema_name(d->scratch, t, how);
    const struct component *known = map_get(&d->components, name);
    if (known != NULL && known->table != t) {
        LOG(LOG_ERROR, "openapi.clash", LOG_STR("schema", name));
        d->fail = ERR_CONFLICT;
    }
    if (known != NULL)
        return;
    struct component *c = NEW(d->scratch, struct component);
    if (c != NULL)
        *c = (struct component){ t, how, name };
    if (c == NULL || map_put(&d->components, name, c) != OK)
        d->fail = ERR_MEMORY;
}

static struct field_visit visit(struct doc *d)
{
    return (struct field_visit){ need_component, d };
}

/* {"$ref": …} */
static void reference(struct doc *d, const struct table *t, enum field_schema how)
{
    need_component(d, t, how);
    str name = field_schema_name(d->scratch, t, how);
    jw_begin(d->w, '{');
    text(d, S("$ref"), strf(d->scratch, "#/components/schemas/%.*s", STR_FMT(name)));
    jw_end(d->w, '}');
}

/* "content": {type: {"schema": …}} */
static void content_begin(struct doc *d, str type)
{
    open_key(d, S("content"), '{');
    open_key(d, type, '{');
    jw_key(d->w, S("schema"));
}

static void content_end(struct doc *d)
{
    jw_end(d->w, '}');
    jw_end(d->w, '}');
}

/* -- parameters ---------------------------------------------------------------------------------------------------- */

static void path_parameter(struct doc *d, const struct route *r, str name)
{
    str path = str_of(r->path);
    i64 at = str_find(path, strf(d->scratch, "/{%.*s}", STR_FMT(name)), 0);
    jw_begin(d->w, '{');
    text(d, S("name"), name);
    text(d, S("in"), S("path"));
    jw_key(d->w, S("required"));
    jw_bool(d->w, true);
    text(d, S("description"),
         strf(d->scratch, "Names one of %.*s", STR_FMT(str_slice(path, 0, (size_t)MAX(at, (i64)0)))));
    open_key(d, S("schema"), '{');
    text(d, S("type"), S("string"));
    jw_end(d->w, '}');
    jw_end(d->w, '}');
}

static void query_parameter(struct doc *d, const struct field *f)
{
    struct field_visit v = visit(d);
    jw_begin(d->w, '{');
    text(d, S("name"), str_of(f->name));
    text(d, S("in"), S("query"));
    jw_key(d->w, S("required"));
    jw_bool(d->w, (f->flags & F_REQUIRED) != 0);
    text(d, S("description"), str_of(f->doc));
    if (f->kind == F_LIST) { /* "a,b", as field_decode_query reads it */
        text(d, S("style"), S("form"));
        jw_key(d->w, S("explode"));
        jw_bool(d->w, false);
    }
    jw_key(d->w, S("schema"));
    field_schema_of(d->w, f, FIELD_SCHEMA_IN, &v);
    jw_end(d->w, '}');
}

static void header_parameter(struct doc *d, str name, bool required, str description)
{
    jw_begin(d->w, '{');
    text(d, S("name"), name);
    text(d, S("in"), S("header"));
    jw_key(d->w, S("required"));
    jw_bool(d->w, required);
    text(d, S("description"), description);
    jw_key(d->w, S("schema"));
    jw_raw(d->w, S("{\"type\":\"string\"}"));
    jw_end(d->w, '}');
}

/* The schemas stay those of whole objects: to say that every member may be missing would tell nobody anything. */
static void fields_parameter(struct doc *d, const struct route *r)
{
    const struct table *t = r->out;
    jw_begin(d->w, '{');
    text(d, S("name"), S("fields"));
    text(d, S("in"), S("query"));
    jw_key(d->w, S("required"));
    jw_bool(d->w, false);
    text(d, S("description"),
         S("Only these members of each object, between commas. The answer then lacks all others, also those that its "
           "schema requires"));
    text(d, S("style"), S("form"));
    jw_key(d->w, S("explode"));
    jw_bool(d->w, false);
    jw_key(d->w, S("schema"));
    jw_raw(d->w, S("{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"string\",\"enum\":["));
    d->w->comma = false;
    for (u32 i = 0; i < t->count; i++)
        if (!(t->fields[i].flags & (F_INPUT | F_HIDDEN)))
            jw_str(d->w, str_of(t->fields[i].name));
    buf_str(d->w->b, S("]}}"));
    jw_end(d->w, '}');
}

static void sort_parameter(struct doc *d, const struct lister *l)
{
    jw_begin(d->w, '{');
    text(d, S("name"), S("sort"));
    text(d, S("in"), S("query"));
    jw_key(d->w, S("required"));
    jw_bool(d->w, false);
    text(d, S("description"),
         S("The order; - in front for the falling one. A cursor goes on in the order that it came from"));
    jw_key(d->w, S("schema"));
    jw_raw(d->w, S("{\"type\":\"string\",\"enum\":["));
    d->w->comma = false;
    for (u32 i = 0; i < l->sort_count; i++) {
        jw_str(d->w, str_of(l->sorts[i].name));
        jw_str(d->w, strf(d->scratch, "-%s", l->sorts[i].name));
    }
    buf_f(d->w->b, "],\"default\":\"-%s\"}", l->sorts[0].name);
    jw_end(d->w, '}');
}

static void list_parameters(struct doc *d, const struct lister *l)
{
    for (u32 i = 0; l != NULL && i < l->filter_count; i++) {
        struct field f = list_filter(l, i);
        str doc = strf(d->scratch, "Only those with this %s: %c%s", f.name, f.doc[0] | 0x20, f.doc + 1);
        f.doc = doc.p != NULL ? doc.p : f.doc;
        query_parameter(d, &f);
    }
    if (l != NULL)
        sort_parameter(d, l);
}

static void conditions(struct doc *d, const struct route *r)
{
    if (r->etag == NULL)
        return;
    if (r->method == GET)
        header_parameter(d, S("If-None-Match"), false,
                         S("ETags that the client has: 304 when it is one of them, or *"));
    else
        header_parameter(d, S("If-Match"), (r->flags & R_NEED_MATCH) != 0,
                         S("The ETag of the object as it was read, or *: 412 when it has changed since"));
}

/* W_WAIT joins the execution that the key began; the rest answers again what it answered. */
static bool takes_key(const struct route *r, enum http_method method)
{
    return route_keeps(r) || (method == POST && r->work == W_WAIT);
}

static bool has_parameters(const struct route *r, enum http_method method)
{
    return route_param_name(r, 0).p != NULL || (r->query != NULL && r->query->count > 0) || r->etag != NULL ||
           route_masks(r) || takes_key(r, method);
}

static void parameters(struct doc *d, const struct route *r, enum http_method method)
{
    str name;
    if (!has_parameters(r, method))
        return;
    open_key(d, S("parameters"), '[');
    for (u32 i = 0; (name = route_param_name(r, i)).p != NULL; i++)
        path_parameter(d, r, name);
    for (u32 i = 0; r->query != NULL && i < r->query->count; i++)
        if (!(r->query->fields[i].flags & F_HIDDEN))
            query_parameter(d, &r->query->fields[i]);
    list_parameters(d, r->list);
    if (route_masks(r))
        fields_parameter(d, r);
    conditions(d, r);
    if (takes_key(r, method))
        header_parameter(
            d, S("Idempotency-Key"), false,
            S("The same key within 24 hours is the same request: it is carried out once and answered alike, "
              "with Idempotent-Replayed: true"));
    jw_end(d->w, ']');
}

static void request_body(struct doc *d, const struct route *r, enum http_method method)
{
    bool raw = (r->flags & R_RAW_BODY) != 0 && method != GET;
    if (r->in == NULL && !raw)
        return;
    open_key(d, S("requestBody"), '{');
    jw_key(d->w, S("required"));
    jw_bool(d->w, !raw && !(r->flags & R_OPTIONAL_BODY));
    content_begin(d, r->in == NULL        ? S("*/*")
                     : r->flags & R_PATCH ? S("application/merge-patch+json")
                                          : S("application/json"));
    if (r->in != NULL)
        reference(d, r->in, r->flags & R_PATCH ? FIELD_SCHEMA_PATCH : FIELD_SCHEMA_IN);
    else
        jw_raw(d->w, S("{\"description\":\"Any bytes\"}"));
    if (r->example != NULL) {
        jw_key(d->w, S("example"));
        jw_raw(d->w, str_of(r->example));
    }
    content_end(d);
    jw_end(d->w, '}');
}

/* -- responses ----------------------------------------------------------------------------------------------------- */

static void header(struct doc *d, str name, str description, str type)
{
    open_key(d, name, '{');
    text(d, S("description"), description);
    open_key(d, S("schema"), '{');
    text(d, S("type"), type);
    jw_end(d->w, '}');
    jw_end(d->w, '}');
}

/* Whether what a POST makes is read at a path of its own that has an ETag: its path and one more parameter. */
static bool makes_tagged(const struct doc *d, const struct route *r)
{
    struct map_entry *e;
    for (u32 i = 0; (e = map_next(&d->paths, &i)) != NULL;) {
        str own = str_of(r->path), rest = str_slice(e->key, own.n, e->key.n);
        if (!str_starts(e->key, own) || !str_starts(rest, S("/{")) || str_find_char(rest, '/', 1) >= 0)
            continue;
        for (const struct operation *o = e->value; o != NULL; o = o->next)
            if (o->method == GET && o->route->etag != NULL)
                return true;
    }
    return false;
}

/* Whether its answers may tell of a limit: its own, or that of a plan. */
static bool limited(const struct route *r)
{
    for (const struct problem *const *p = r->problems; p != NULL && *p != NULL; p++)
        if ((*p)->class == ERR_LIMIT)
            return true;
    return r->need != &anyone && limit_plans_any();
}

static void success_headers(struct doc *d, const struct route *r, int status)
{
    open_key(d, S("headers"), '{');
    header(d, S("X-Request-Id"), S("Names this request in the logs"), S("string"));
    if (status == 201)
        header(d, S("Location"), S("Path of the created object"), S("string"));
    if (limited(r)) {
        header(d, S("RateLimit-Policy"), S("What is allowed: \"name\";q=<requests>;w=<seconds>"), S("string"));
        header(d, S("RateLimit"), S("What is left of it: \"name\";r=<requests>;t=<seconds until there are more>"),
               S("string"));
    }
    if (takes_key(r, r->method))
        header(d, S("Idempotent-Replayed"), S("true: carried out earlier, by the same Idempotency-Key"), S("string"));
    if ((status == 200 && r->etag != NULL) || (status == 201 && makes_tagged(d, r)))
        header(d, S("ETag"), S("Names this state of the object, for If-Match and If-None-Match"), S("string"));
    if (r->flags & R_LIST) {
        header(d, S("Link"), S("rel=\"next\": the next page, when there is one"), S("string"));
        header(d, S("X-Total-Count"), S("Number of all rows, with ?count=true"), S("integer"));
    }
    jw_end(d->w, '}');
}

static void success_schema(struct doc *d, const struct route *r)
{
    if (!(r->flags & R_LIST)) {
        reference(d, r->out, FIELD_SCHEMA_OUT);
        return;
    }
    jw_begin(d->w, '{');
    text(d, S("type"), S("array"));
    jw_key(d->w, S("items"));
    reference(d, r->out, FIELD_SCHEMA_ITEM);
    jw_end(d->w, '}');
}

static int success_status(const struct route *r)
{
    if (r->status != 0)
        return r->status;
    return r->method == POST && r->out != NULL && !(r->flags & R_LIST) ? 201 : 200;
}

/* Inside the content that application/json began. */
static void further_types(struct doc *d, const struct route *r)
{
    for (const char *const *type = r->also_types; type != NULL && *type != NULL; type++) {
        jw_end(d->w, '}');
        open_key(d, str_of(*type), '{');
        jw_key(d->w, S("schema"));
        jw_raw(d->w, S("{\"type\":\"string\"}"));
    }
}

static void success(struct doc *d, const struct route *r)
{
    int status = success_status(r);
    status_key(d, status);
    jw_begin(d->w, '{');
    text(d, S("description"), str_of(http_reason(status)));
    success_headers(d, r, status);
    if (r->produces != NULL) {
        content_begin(d, str_of(r->produces));
        jw_raw(d->w,
               strcmp(r->produces, "application/json") == 0 ? S("{\"type\":\"object\"}") : S("{\"type\":\"string\"}"));
        content_end(d);
    } else if (r->out != NULL && status != 204) {
        content_begin(d, S("application/json"));
        success_schema(d, r);
        further_types(d, r);
        content_end(d);
    }
    jw_end(d->w, '}');
}

static void problem_content(struct doc *d)
{
    content_begin(d, S("application/problem+json"));
    jw_raw(d->w, S("{\"$ref\":\"#/components/schemas/Problem\"}"));
    content_end(d);
}

static void further(struct doc *d, const struct route_status *s)
{
    status_key(d, s->status);
    jw_begin(d->w, '{');
    text(d, S("description"), str_of(s->doc));
    if (s->out != NULL) {
        content_begin(d, S("application/json"));
        reference(d, s->out, FIELD_SCHEMA_OUT);
        content_end(d);
    } else if (s->status >= 400) {
        problem_content(d);
    }
    jw_end(d->w, '}');
}

struct codes {
    const struct problem *list[CODES_MAX];
    u32 n;
};

static void codes_add(struct codes *c, bool applies, const struct problem *p)
{
    if (applies && c->n < CODES_MAX)
        c->list[c->n++] = p;
}

/* What the gate and the decoder may answer before the handler, and what every handler may end with. */
static struct codes codes_of(const struct route *r)
{
    bool token = r->need != &anyone && !(r->flags & R_NO_AUTH_HEADER);
    bool json = r->in != NULL && !(r->flags & R_RAW_BODY);
    bool free_query = r->query != NULL && r->query->open;
    bool need_match = (r->flags & R_NEED_MATCH) != 0;
    struct codes c = { .n = 0 };
    codes_add(&c, true, &problem_of_class[ERR_DECODE]);
    codes_add(&c, json, &problem_body_json);
    codes_add(&c, token, &problem_unauthorized);
    codes_add(&c, token && r->need != &signed_in, &problem_forbidden);
    codes_add(&c, token && r->method != GET, &problem_csrf);
    codes_add(&c, token && r->need != &signed_in && r->need != &in_person, &problem_totp_setup);
    codes_add(&c, json || (r->flags & R_RAW_BODY), &body_size);
    codes_add(&c, json, &problem_body_media);
    codes_add(&c, json || !free_query, &problem_body_invalid);
    codes_add(&c, r->etag != NULL, &problem_of_class[ERR_PRECONDITION]);
    codes_add(&c, route_keeps(r), &problem_idempotency_running);
    codes_add(&c, route_keeps(r), &problem_idempotency_unkept);
    codes_add(&c, route_keeps(r), &problem_idempotency_mismatch);
    codes_add(&c, need_match, &problem_of_class[ERR_NO_MATCH]);
    codes_add(&c, token && limit_plans_any(), &problem_of_class[ERR_LIMIT]);
    codes_add(&c, true, &problem_of_class[ERR_INTERNAL]);
    codes_add(&c, true, &problem_of_class[ERR_BUSY]);
    codes_add(&c, true, &problem_of_class[ERR_MEMORY]);
    codes_add(&c, route_changes(r), &problem_of_class[ERR_STORAGE]);
    codes_add(&c, route_changes(r), &problem_unanswered);
    for (const struct problem *const *p = r->problems; p != NULL && *p != NULL; p++)
        codes_add(&c, true, *p);
    return c;
}

static bool documented(const struct route *r, int status)
{
    if (status == success_status(r))
        return true;
    for (const struct route_status *s = r->also; s != NULL && s->status != 0; s++)
        if (s->status == status)
            return true;
    return false;
}

static void failure(struct doc *d, const struct codes *c, int status)
{
    struct buf b = { .arena = d->scratch };
    for (u32 i = 0; i < c->n; i++)
        if (err_status(c->list[i]->class) == status)
            buf_f(&b, "%s`%s`: %s", b.n > 0 ? "; " : "", c->list[i]->code, c->list[i]->title);
    if (b.n == 0)
        return;
    status_key(d, status);
    jw_begin(d->w, '{');
    text(d, S("description"), buf_view(&b));
    problem_content(d);
    jw_end(d->w, '}');
}

static const struct route_status not_modified = { 304, NULL, "The client has it already, as If-None-Match said" };

static void responses(struct doc *d, const struct route *r)
{
    struct codes codes = codes_of(r);
    open_key(d, S("responses"), '{');
    success(d, r);
    if (r->etag != NULL && r->method == GET)
        further(d, &not_modified);
    for (const struct route_status *s = r->also; s != NULL && s->status != 0; s++)
        further(d, s);
    int last = 0;
    for (err e = OK + 1; e < ERR_COUNT; e++) { /* the list of classes is in the order of their statuses */
        if (err_status(e) != last && !documented(r, err_status(e)))
            failure(d, &codes, err_status(e));
        last = err_status(e);
    }
    jw_end(d->w, '}');
}

/* -- operations ---------------------------------------------------------------------------------------------------- */

static str lower_method(struct doc *d, enum http_method m)
{
    return str_lower(d->scratch, str_of(http_method_name(m)));
}

/* <word>_<handler>; a handler that serves several rows gets its method and then a number behind. */
static str operation_id(struct doc *d, const struct operation *o)
{
    str base = strf(d->scratch, "%s_%s", o->module->name, o->route->handler_name), id = base;
    if (map_get(&d->ids, id) != NULL || o->route->flags & R_ANY_METHOD)
        id = base = strf(d->scratch, "%.*s_%.*s", STR_FMT(base), STR_FMT(lower_method(d, o->method)));
    for (u32 n = 2; map_get(&d->ids, id) != NULL; n++)
        id = strf(d->scratch, "%.*s_%u", STR_FMT(base), n);
    if (map_put(&d->ids, id, d) != OK)
        d->fail = ERR_MEMORY;
    return id;
}

static void operation(struct doc *d, const struct operation *o)
{
    const struct route *r = o->route;
    open_key(d, lower_method(d, o->method), '{');
    text(d, S("operationId"), operation_id(d, o));
    open_key(d, S("tags"), '[');
    jw_str(d->w, str_of(o->module->name));
    jw_end(d->w, ']');
    text(d, S("summary"), str_of(r->doc));
    text(d, S("description"), str_of(r->more != NULL ? r->more : r->doc));
    open_key(d, S("security"), '[');
    if (r->need != &anyone && !(r->flags & R_NO_AUTH_HEADER))
        jw_raw(d->w, r->need == &in_person ? S("{\"bearer\":[]},{\"cookie\":[]}")
                                           : S("{\"bearer\":[]},{\"cookie\":[]},{\"key\":[]}"));
    jw_end(d->w, ']');
    text(d, S("x-permission"), str_of(r->need->name));
    parameters(d, r, o->method);
    request_body(d, r, o->method);
    responses(d, r);
    jw_end(d->w, '}');
}

static err collect_one(struct doc *d, const struct module *m, const struct route *r, enum http_method method)
{
    struct operation *o = NEW(d->scratch, struct operation);
    if (o == NULL)
        return ERR_MEMORY;
    *o = (struct operation){ m, r, method, NULL };
    struct operation *first = map_get(&d->paths, str_of(r->path));
    if (first == NULL)
        return map_put(&d->paths, str_of(r->path), o);
    while (first->next != NULL)
        first = first->next;
    first->next = o;
    return OK;
}

static err collect_route(struct doc *d, const struct module *m, const struct route *r)
{
    static const enum http_method every[] = { GET, POST, PUT, PATCH, DELETE };
    if (r->flags & R_HIDDEN)
        return OK;
    if (!(r->flags & R_ANY_METHOD))
        return collect_one(d, m, r, r->method);
    for (size_t i = 0; i < COUNT(every); i++)
        TRY(collect_one(d, m, r, every[i]));
    return OK;
}

static err collect(struct doc *d)
{
    for (const struct module *const *m = modules; *m != NULL; m++)
        for (u32 i = 0; i < (*m)->route_count; i++)
            TRY(collect_route(d, *m, &(*m)->routes[i]));
    return OK;
}

/* -- the document -------------------------------------------------------------------------------------------------- */

static const char info[] =
    "{\"title\":\"Weir\",\"version\":\"" WEIR_VERSION "\","
    "\"description\":\"Workflows, triggers and executions over HTTP. Every error is an RFC 9457 problem with a stable `code`.\","
    "\"license\":{\"name\":\"Apache-2.0\",\"url\":\"https://www.apache.org/licenses/LICENSE-2.0\"},"
    "\"contact\":{\"name\":\"The maintainers of Weir\"}}";

static const char problem_schema[] =
    "{\"type\":\"object\",\"description\":\"What went wrong (RFC 9457)\","
    "\"required\":[\"type\",\"title\",\"status\",\"detail\",\"code\",\"request_id\",\"errors\"],\"properties\":{"
    "\"type\":{\"type\":\"string\",\"description\":\"Where the code is explained\",\"examples\":[\"/docs/errors#request.invalid\"]},"
    "\"title\":{\"type\":\"string\",\"description\":\"The same for every answer of this code\"},"
    "\"status\":{\"type\":\"integer\",\"description\":\"The HTTP status\"},"
    "\"detail\":{\"type\":\"string\",\"description\":\"What is wrong with this very request\"},"
    "\"code\":{\"type\":\"string\",\"description\":\"Stable; for programs\",\"examples\":[\"request.invalid\"]},"
    "\"request_id\":{\"type\":[\"string\",\"null\"],\"description\":\"Names the request in the logs\"},"
    "\"challenge_id\":{\"type\":\"string\",\"description\":\"With auth.totp_required: send it with the code, in place of address and password\"},"
    "\"errors\":{\"type\":\"array\",\"description\":\"Each thing that is wrong\",\"items\":{\"$ref\":\"#/components/schemas/ProblemEntry\"}}}}";

static const char entry_schema[] =
    "{\"type\":\"object\",\"description\":\"One thing that is wrong\",\"required\":[\"pointer\",\"code\",\"detail\"],\"properties\":{"
    "\"pointer\":{\"type\":\"string\",\"description\":\"RFC 6901 pointer into the body, or query/<name>\"},"
    "\"code\":{\"type\":\"string\",\"description\":\"Stable; for programs\",\"examples\":[\"field.required\"]},"
    "\"detail\":{\"type\":\"string\",\"description\":\"For people\"}}}";

static const char bearer_scheme[] =
    "{\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\",\"bearerFormat\":\"JWT\",\"description\":\"An access token, or an API key\"},"
    "\"cookie\":{\"type\":\"apiKey\",\"in\":\"cookie\",\"name\":\"__Host-weir\",\"description\":\"A browser's session; changes need X-CSRF-Token too\"},"
    "\"key\":{\"type\":\"apiKey\",\"in\":\"header\",\"name\":\"X-API-Key\",\"description\":\"A key for a program\"}}";

static bool visible(const struct module *m)
{
    for (u32 i = 0; i < m->route_count; i++)
        if (!(m->routes[i].flags & R_HIDDEN))
            return true;
    return false;
}

/* The first visible module whose name comes after `name`; NULL when there is none. */
static const struct module *next_by_name(const char *name)
{
    const struct module *best = NULL;
    for (const struct module *const *m = modules; *m != NULL; m++)
        if (visible(*m) && strcmp((*m)->name, name) > 0 && (best == NULL || strcmp((*m)->name, best->name) < 0))
            best = *m;
    return best;
}

static void tags(struct doc *d)
{
    open_key(d, S("tags"), '[');
    for (const struct module *m = next_by_name(""); m != NULL; m = next_by_name(m->name)) {
        jw_begin(d->w, '{');
        text(d, S("name"), str_of(m->name));
        text(d, S("description"), str_of(m->doc));
        jw_end(d->w, '}');
    }
    jw_end(d->w, ']');
}

static void paths(struct doc *d)
{
    struct map_entry *e;
    open_key(d, S("paths"), '{');
    for (u32 i = 0; (e = map_next(&d->paths, &i)) != NULL;) {
        open_key(d, e->key, '{');
        for (const struct operation *o = e->value; o != NULL; o = o->next)
            operation(d, o);
        jw_end(d->w, '}');
    }
    jw_end(d->w, '}');
}

/* A schema may bring further ones: the map grows while it is walked, at its end. */
static void components(struct doc *d)
{
    struct field_visit v = visit(d);
    struct map_entry *e;
    open_key(d, S("components"), '{');
    jw_key(d->w, S("securitySchemes"));
    jw_raw(d->w, str_of(bearer_scheme));
    open_key(d, S("schemas"), '{');
    jw_key(d->w, S("Problem"));
    jw_raw(d->w, str_of(problem_schema));
    jw_key(d->w, S("ProblemEntry"));
    jw_raw(d->w, str_of(entry_schema));
    for (u32 i = 0; (e = map_next(&d->components, &i)) != NULL;) {
        const struct component *c = e->value;
        jw_key(d->w, c->name);
        field_schema(d->w, c->table, c->how, &v);
    }
    jw_end(d->w, '}');
    jw_end(d->w, '}');
}

static void write_document(struct doc *d)
{
    jw_begin(d->w, '{');
    text(d, S("openapi"), S("3.1.0"));
    jw_key(d->w, S("info"));
    jw_raw(d->w, str_of(info));
    jw_key(d->w, S("servers"));
    jw_raw(d->w, S("[{\"url\":\"/\",\"description\":\"This server\"}]"));
    tags(d);
    paths(d);
    components(d);
    jw_end(d->w, '}');
}

static err build(struct arena *a, struct arena *scratch)
{
    struct buf b = { .arena = scratch };
    struct json_writer w = { .b = &b };
    struct doc d = { .scratch = scratch, .w = &w };
    d.components.arena = d.paths.arena = d.ids.arena = scratch;
    TRY(collect(&d));
    write_document(&d);
    TRY(d.fail);
    TRY(b.fail);
    str kept = str_dup(a, buf_view(&b));
    if (kept.p == NULL)
        return ERR_MEMORY;
    return packed_make(a, kept, &document);
}

err openapi_build(struct arena *a)
{
    struct arena *scratch = arena_new(SCRATCH_BYTES);
    err e = scratch != NULL ? build(a, scratch) : ERR_MEMORY;
    arena_free(scratch);
    return e;
}

str openapi_text(void)
{
    return document.bodies[CODING_NONE];
}

const struct packed *openapi_packed(void)
{
    return &document;
}
