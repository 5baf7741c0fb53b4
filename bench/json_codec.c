/* json_codec.c - the JSON codec beside jansson, on the same documents in the same run.
 *
 *     json_codec MILLISECONDS
 *
 * Each row does the same work with both, memory taken and given back included: parse (text to nodes, duplicate keys refused by both), write
 * (nodes to compact text), make (values to compact text: ours streams, jansson has to build nodes first) and build (values to nodes, member by member). The two take turns, and the best turn counts, so that whatever
 * else the machine does hits both alike. Prints one JSON object per line. */
#include "base/clock.h"
#include "codec/json.h"
#include "json_jansson.h"

#include <stdio.h>
#include <stdlib.h>

enum { TURNS = 10, SMALL_ORDERS = 2, LARGE_ORDERS = 212, TEXT_MAX = 256 << 10 };

struct document {
    const char *name;
    str text;
    struct json *ours;
    struct recipe *recipe;
    void *theirs;
};
typedef void work(const struct document *d);

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "json_codec: %s\n", what);
    exit(1);
}

/* ---- the documents: what a webhook of a shop sends */

static void put_order(struct buf *b, int i)
{
    buf_f(b,
          "{\"id\":\"order_%08d\",\"number\":%d,\"total\":%d.%02d,\"currency\":\"EUR\",\"paid\":%s,\"coupon\":null,"
          "\"note\":\"Please leave it with the neighbours, second door on the left.\","
          "\"customer\":{\"name\":\"Zo\xc3\xab M\xc3\xbcller %d\",\"email\":\"customer%d@example.test\",\"visits\":%d},"
          "\"lines\":[{\"sku\":\"SKU-%05d\",\"title\":\"Enamel mug, 0.3 l, speckled\",\"count\":%d,\"price\":%d.%d},"
          "{\"sku\":\"SKU-%05d\",\"title\":\"Poster \\\"North\\\"\\nA2\",\"count\":1,\"price\":18.5}],"
          "\"weight_kg\":%d.%03d,\"created_at\":\"2026-03-%02dT09:%02d:00Z\"}",
          i, 1000 + i, i * 7 % 400, i * 13 % 100, i % 3 ? "true" : "false", i, i, i * 31 % 90, i * 17 % 99999,
          i % 9 + 1, i * 3 % 80, i % 9 + 1, i * 29 % 99999, i % 4, i * 37 % 1000, i % 28 + 1, i % 60);
}

static str make_text(struct arena *a, int orders)
{
    struct buf b = { .arena = a };
    buf_str(&b, S("{\"event\":\"orders.created\",\"sequence\":90412,\"orders\":["));
    for (int i = 0; i < orders; i++) {
        if (i > 0)
            buf_char(&b, ',');
        put_order(&b, i);
    }
    buf_str(&b, S("]}"));
    must(b.fail == OK, "no memory");
    return buf_view(&b);
}

static void put_recipe(struct buf *b, const struct json *j, str key)
{
    static const char kinds[] = { [JSON_NULL] = 'n', [JSON_BOOL] = 't',  [JSON_INT] = 'i',   [JSON_REAL] = 'r',
                                  [JSON_STR] = '"',  [JSON_ARRAY] = '[', [JSON_OBJECT] = '{' };
    bool open = j->type == JSON_ARRAY || j->type == JSON_OBJECT;
    struct recipe r = { kinds[j->type], open ? j->n : 0, key, json_str(j), 0, 0 };
    r.integer = j->type == JSON_BOOL ? j->boolean : j->type == JSON_INT ? j->integer : 0;
    r.real = j->type == JSON_REAL ? j->real : 0;
    buf_put(b, &r, sizeof r);
    for (u32 i = 0; open && i < j->n; i++)
        if (j->type == JSON_ARRAY)
            put_recipe(b, &j->items[i], STR_NONE);
        else
            put_recipe(b, &j->members[i].value, j->members[i].key);
}

static struct recipe *make_recipe(struct arena *a, const struct json *j)
{
    struct buf b = { .arena = a };
    put_recipe(&b, j, STR_NONE);
    must(b.fail == OK, "no memory");
    return (struct recipe *)(void *)b.p;
}

/* ---- ours */

static void parse_ours(const struct document *d)
{
    struct arena *a = arena_new(8 * MIB);
    struct json *j;
    must(a != NULL && json_parse(a, d->text, &j, NULL) == OK, "our parser failed");
    arena_free(a);
}

static struct json built(struct arena *a, const struct recipe **next)
{
    const struct recipe *r = (*next)++;
    struct json j = json_null;
    switch (r->kind) {
    case 'n':
        break;
    case 't':
        return json_of_bool(r->integer != 0);
    case 'i':
        return json_of_i64(r->integer);
    case 'r':
        return json_of_real(r->real);
    case '"':
        return json_of_str(str_dup(a, r->text)); /* jansson copies, so this does too */
    case '[':
        j = (struct json){ .type = JSON_ARRAY };
        for (u32 i = 0; i < r->children; i++)
            must(json_add(a, &j, built(a, next)), "json_add");
        return j;
    default:
        j = (struct json){ .type = JSON_OBJECT };
        for (u32 i = 0; i < r->children; i++) {
            str key = str_dup(a, (*next)->key);
            must(json_set(a, &j, key, built(a, next)), "json_set");
        }
    }
    return j;
}

static void build_ours(const struct document *d)
{
    struct arena *a = arena_new(8 * MIB);
    const struct recipe *next = d->recipe;
    must(a != NULL && built(a, &next).n == d->ours->n, "our builder failed");
    arena_free(a);
}

static void stream(struct json_writer *w, const struct recipe **next)
{
    const struct recipe *r = (*next)++;
    switch (r->kind) {
    case 'n':
        jw_null(w);
        break;
    case 't':
        jw_bool(w, r->integer != 0);
        break;
    case 'i':
        jw_i64(w, r->integer);
        break;
    case 'r':
        jw_real(w, r->real);
        break;
    case '"':
        jw_str(w, r->text);
        break;
    case '[':
        jw_begin(w, '[');
        for (u32 i = 0; i < r->children; i++)
            stream(w, next);
        jw_end(w, ']');
        break;
    default:
        jw_begin(w, '{');
        for (u32 i = 0; i < r->children; i++) {
            jw_key(w, (*next)->key);
            stream(w, next);
        }
        jw_end(w, '}');
    }
}

static void make_ours(const struct document *d)
{
    struct buf b = { .max = TEXT_MAX };
    struct json_writer w = { &b };
    const struct recipe *next = d->recipe;
    stream(&w, &next);
    must(b.fail == OK && b.n > d->text.n / 2, "our stream failed");
    buf_free(&b);
}

static void write_ours(const struct document *d)
{
    struct buf b = { .max = TEXT_MAX };
    json_write(&b, d->ours);
    must(b.fail == OK && b.n > d->text.n / 2, "our writer failed");
    buf_free(&b);
}

/* ---- theirs */

static void parse_theirs(const struct document *d)
{
    void *j = jansson_parse(d->text);
    must(j != NULL, "jansson's parser failed");
    jansson_free(j);
}

static void build_theirs(const struct document *d)
{
    jansson_free(jansson_build(d->recipe));
}

static void write_theirs(const struct document *d)
{
    char *text = jansson_write(d->theirs);
    must(text != NULL, "jansson's writer failed");
    free(text);
}

static void make_theirs(const struct document *d)
{
    void *j = jansson_build(d->recipe);
    char *text = jansson_write(j);
    must(text != NULL, "jansson's writer failed");
    free(text);
    jansson_free(j);
}

/* ---- measuring */

/* Microseconds for one time. */
static double once_us(work *w, const struct document *d, i64 for_us)
{
    i64 began = clock_mono_us(), now = began;
    i64 count = 0;
    for (; now - began < for_us; now = clock_mono_us(), count += 8)
        for (int i = 0; i < 8; i++)
            w(d);
    return (double)(now - began) / (double)count;
}

static void compare(const char *what, const struct document *d, work *ours, work *theirs, i64 turn_us)
{
    double best[2] = { 1e9, 1e9 };
    for (int i = 0; i < TURNS; i++) {
        double us[2] = { once_us(ours, d, turn_us), once_us(theirs, d, turn_us) };
        best[0] = MIN(best[0], us[0]);
        best[1] = MIN(best[1], us[1]);
    }
    printf("{\"what\":\"%s\",\"document\":\"%s\",\"bytes\":%zu,\"us\":%.3f,\"jansson_us\":%.3f,\"ratio\":%.2f}\n", what,
           d->name, d->text.n, best[0], best[1], best[1] / best[0]);
}

int main(int argc, char **argv)
{
    i64 ms;
    must(argc == 2 && str_i64(str_of(argv[1]), 1, 600000, &ms), "usage: json_codec MILLISECONDS");
    struct arena *a = arena_new(16 * MIB);
    must(a != NULL, "no memory");
    struct document documents[] = { { "1 KB", make_text(a, SMALL_ORDERS) }, { "100 KB", make_text(a, LARGE_ORDERS) } };
    for (size_t i = 0; i < COUNT(documents); i++) {
        struct document *d = &documents[i];
        must(json_parse(a, d->text, &d->ours, NULL) == OK, "a document is no JSON");
        d->theirs = jansson_parse(d->text);
        d->recipe = make_recipe(a, d->ours);
        i64 turn_us = ms * 1000 / (TURNS * 2);
        compare("parse", d, parse_ours, parse_theirs, turn_us);
        compare("write", d, write_ours, write_theirs, turn_us);
        compare("make", d, make_ours, make_theirs, turn_us);
        compare("build", d, build_ours, build_theirs, turn_us);
        jansson_free(d->theirs);
    }
    arena_free(a);
    return 0;
}
