/* triggers_input.c - a request as an execution sees it: `input_data` is what was sent, `trigger` is how.
 *
 *     GET            the query parameters, as an object
 *     JSON           an object as it is, any other value as {"body": value}
 *     form           an object; a name that comes several times has a list
 *     other text     {"body": "…"}
 *     anything else  {"body": base64, "encoding": "base64"}
 *
 * Nothing is guessed from the bytes but whether they are text: a sender that says nothing of JSON gets its body as text. */
#include "feat/triggers/triggers_parts.h"

#include "base/map.h"
#include "codec/base64.h"
#include "codec/json.h"
#include "codec/url.h"

PROBLEM_SHARED(trigger_body_form, "triggers.form", ERR_DECODE, "The form or query cannot be decoded");

/* What proves who calls must not reach a workflow, its history or its logs. */
static const char *const secret_headers[] = { "authorization", "proxy-authorization", "cookie", "x-api-key",
                                              "x-auth-token",  "x-csrf-token",        NULL };

static bool is_secret(str name)
{
    for (u32 i = 0; secret_headers[i] != NULL; i++)
        if (str_eq(name, str_of(secret_headers[i])))
            return true;
    return false;
}

static err text_of(struct arena *a, const struct json *j, str *text)
{
    *text = json_text(a, j);
    return text->p != NULL ? OK : ERR_MEMORY;
}

/* ---- names and values ---- */

/* A name that comes again makes its value a list. `seen` finds the member in constant time: strangers choose the names. */
static bool add_value(struct arena *a, struct json *object, struct map *seen, const struct pair *pair)
{
    uintptr_t place = (uintptr_t)map_get(seen, pair->name);
    if (place == 0) {
        place = object->n + 1;
        object->members[object->n++] = (struct json_member){ pair->name, json_of_str(pair->value) };
        return map_put(seen, pair->name, (void *)place) == OK;
    }
    struct json *value = &object->members[place - 1].value;
    struct json list = { .type = JSON_ARRAY };
    if (value->type != JSON_ARRAY) {
        if (!json_add(a, &list, *value))
            return false;
        *value = list;
    }
    return json_add(a, value, json_of_str(pair->value));
}

static err pairs_object(struct arena *a, str form, struct json *out)
{
    struct json object = { .type = JSON_OBJECT };
    struct map seen = { .arena = a };
    struct pair *pairs = NULL;
    size_t count = 0;
    err e = url_form(a, form, &pairs, &count);
    if (e != OK)
        return e == ERR_MEMORY ? e : ERR_DECODE;
    if ((object.members = NEW_N(a, struct json_member, count)) == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < count; i++)
        if (!add_value(a, &object, &seen, &pairs[i]))
            return ERR_MEMORY;
    *out = object;
    return OK;
}

/* ---- bodies ---- */

static err input_form(struct arena *a, str form, str *json, const struct problem **why)
{
    struct json object;
    err e = pairs_object(a, form, &object);
    if (e == ERR_DECODE)
        *why = &trigger_body_form;
    return e == OK ? text_of(a, &object, json) : e;
}

/* A value that is no object is wrapped and parsed again, so that the depth is checked as the engine will see it. */
static err input_json(struct arena *a, str body, str *json, const struct problem **why, struct json_error *where)
{
    struct json *j;
    *why = &problem_body_json;
    TRY(json_parse(a, body, &j, where));
    if (j->type == JSON_OBJECT)
        return text_of(a, j, json);
    const str parts[] = { S("{\"body\":"), body, S("}") };
    str wrapped = str_concat(a, parts, COUNT(parts));
    if (wrapped.p == NULL)
        return ERR_MEMORY;
    TRY(json_parse(a, wrapped, &j, where));
    return text_of(a, j, json);
}

static err input_bytes(struct arena *a, str body, str *json)
{
    struct json object = { .type = JSON_OBJECT };
    bool text = str_utf8(body) && str_find_char(body, 0, 0) < 0;
    str value = text ? body : base64_encode(a, BASE64, body);
    if (value.p == NULL || !json_set(a, &object, S("body"), json_of_str(value)))
        return ERR_MEMORY;
    if (!text && !json_set(a, &object, S("encoding"), json_of_str(S("base64"))))
        return ERR_MEMORY;
    return text_of(a, &object, json);
}

static str media_type(const struct http_request *http)
{
    str value = http_header(http, S("content-type")), type = STR_NONE;
    return str_cut(&value, ';', &type) ? str_trim(type) : STR_NONE;
}

static bool media_is_json(str type)
{
    return str_eq_nocase(type, S("application/json")) ||
           (type.n > 5 && str_eq_nocase(str_slice(type, type.n - 5, type.n), S("+json")));
}

err trigger_input(struct arena *a, const struct http_request *http, str *json, const struct problem **why,
                  struct json_error *where)
{
    str type = media_type(http);
    if (http->method == GET)
        return input_form(a, http->query.p != NULL ? http->query : S(""), json, why);
    if (http->body.n == 0) {
        *json = S("{}");
        return OK;
    }
    if (media_is_json(type))
        return input_json(a, http->body, json, why, where);
    if (str_eq_nocase(type, S("application/x-www-form-urlencoded")))
        return input_form(a, http->body, json, why);
    return input_bytes(a, http->body, json);
}

/* ---- how it came ---- */

/* Repeated fields are one, as RFC 9110 §5.3 reads them. */
static bool add_header(struct arena *a, struct json *headers, const struct pair *h)
{
    str value = str_utf8(h->value) ? h->value : S("");
    const struct json *before = json_get(headers, h->name);
    if (before != NULL)
        value = strf(a, "%.*s, %.*s", STR_FMT(json_str(before)), STR_FMT(value));
    return value.p != NULL && json_set(a, headers, h->name, json_of_str(value));
}

err trigger_origin(struct arena *a, const struct http_request *http, str trigger_id, str *json)
{
    struct json headers = { .type = JSON_OBJECT }, query = { .type = JSON_OBJECT }, origin = { .type = JSON_OBJECT };
    for (u32 i = 0; i < http->header_count; i++)
        if (!is_secret(http->headers[i].name) && !add_header(a, &headers, &http->headers[i]))
            return ERR_MEMORY;
    TRY(pairs_object(a, http->query.p != NULL ? http->query : S(""), &query));
    const struct json_member members[] = {
        { S("type"), json_of_str(S("webhook")) },
        { S("id"), json_of_str(trigger_id) },
        { S("method"), json_of_str(http->method_text) },
        { S("headers"), headers },
        { S("query"), query },
        { S("client_ip"), json_of_str(http->remote) },
    };
    for (u32 i = 0; i < COUNT(members); i++)
        if (!json_set(a, &origin, members[i].key, members[i].value))
            return ERR_MEMORY;
    return text_of(a, &origin, json);
}
