/* show.c - what the binary is made of, straight from the tables that serve.
 *
 * A sheet is the one form behind all of them: a row of texts becomes aligned columns, or an object with the names of the columns. */
#include "show.h"
#include "core/app.h"
#include "core/catalogue.h"
#include "core/jobs.h"
#include "core/metrics.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 8 };

struct column {
    const char *name;
    int width;   /* as text; 0 = the rest of the line */
    bool number; /* as JSON */
};
struct sheet {
    struct json_writer w;
    const struct column *columns; /* ends with name NULL */
    bool json;
};

static struct sheet sheet_begin(struct buf *b, const struct column *columns, bool json)
{
    struct sheet s = { .w = { .b = b }, .columns = columns, .json = json };
    if (json)
        jw_begin(&s.w, '[');
    return s;
}

static void row_text(struct sheet *s, const str *cells)
{
    struct buf *b = s->w.b;
    for (u32 i = 0; s->columns[i].name != NULL; i++)
        buf_f(b, "%s%-*.*s", i > 0 ? " " : "", s->columns[i].width, STR_FMT(cells[i].n > 0 ? cells[i] : S("-")));
    buf_char(b, '\n');
}

/* A line for each object: such a file can be compared. */
static void row_json(struct sheet *s, const str *cells)
{
    jw_begin(&s->w, '{');
    for (u32 i = 0; s->columns[i].name != NULL; i++) {
        jw_key(&s->w, str_of(s->columns[i].name));
        if (s->columns[i].number)
            jw_raw(&s->w, cells[i]);
        else
            jw_str(&s->w, cells[i]);
    }
    jw_end(&s->w, '}');
}

static void row(struct sheet *s, const str *cells)
{
    (s->json ? row_json : row_text)(s, cells);
}

static err sheet_end(struct sheet *s)
{
    if (s->json) {
        jw_end(&s->w, ']');
        buf_char(s->w.b, '\n');
    }
    return s->w.b->fail;
}

static str place(struct arena *a, const char *file, int line)
{
    return strf(a, "%s:%d", catalogue_file(file), line);
}

/* "90 s", "15 min", "1 h", "1 d"; "" for none. */
static str span(struct arena *a, i64 us)
{
    static const struct {
        i64 us;
        const char *name;
    } units[] = { { DAY_US, "d" }, { HOUR_US, "h" }, { MINUTE_US, "min" }, { SECOND_US, "s" } };
    for (size_t i = 0; i < COUNT(units); i++)
        if (us > 0 && us % units[i].us == 0)
            return strf(a, "%lld %s", (long long)(us / units[i].us), units[i].name);
    return us > 0 ? strf(a, "%lld ms", (long long)(us / 1000)) : STR_NONE;
}

/* -- the sheets ---------------------------------------------------------------------------------------------------- */

err show_routes(struct buf *b, bool json)
{
    static const struct column columns[] = { { "method", 7 },   { "path", 56 }, { "permission", 22 },
                                             { "handler", 28 }, { "where", 0 }, { NULL } };
    struct sheet s = sheet_begin(b, columns, json);
    for (const struct module *const *m = modules; *m != NULL; m++)
        for (u32 i = 0; i < (*m)->route_count; i++) {
            const struct route *r = &(*m)->routes[i];
            const char *method = r->flags & R_ANY_METHOD ? "ANY" : http_method_name(r->method);
            row(&s, (str[]){ str_of(method), str_of(r->path), str_of(r->need->name), str_of(r->handler_name),
                             place(b->arena, r->file, r->line) });
        }
    return sheet_end(&s);
}

err show_errors(struct buf *b, bool json)
{
    static const struct column columns[] = { { "code", 32 },  { "kind", 8 },  { "status", 6, .number = true },
                                             { "where", 44 }, { "title", 0 }, { NULL } };
    struct catalogue_row *list;
    u32 n;
    TRY(catalogue_make(b->arena, &list, &n));
    struct sheet s = sheet_begin(b, columns, json);
    for (u32 i = 0; i < n; i++) {
        str status = list[i].status != 0 ? strf(b->arena, "%d", list[i].status) : STR_NONE;
        row(&s, (str[]){ str_of(list[i].code), str_of(list[i].kind), status,
                         place(b->arena, list[i].file, list[i].line), str_of(list[i].title) });
    }
    return sheet_end(&s);
}

static int by_name(const void *a, const void *b)
{
    const struct metric *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

err show_metrics(struct buf *b, bool json)
{
    static const struct column columns[] = { { "name", 44 }, { "kind", 9 }, { "help", 0 }, { NULL } };
    static const char *const kinds[] = {
        [METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram"
    };
    size_t n;
    struct metric *const *all = metrics_all(&n);
    struct metric **sorted = NEW_N(b->arena, struct metric *, n);
    if (sorted == NULL)
        return ERR_MEMORY;
    memcpy(sorted, all, n * sizeof(struct metric *));
    qsort(sorted, n, sizeof(struct metric *), by_name);
    struct sheet s = sheet_begin(b, columns, json);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || by_name(&sorted[i - 1], &sorted[i]) != 0) /* of a family the first */
            row(&s, (str[]){ str_of(sorted[i]->name), str_of(kinds[sorted[i]->kind]), str_of(sorted[i]->help) });
    return sheet_end(&s);
}

static int by_scope(const void *a, const void *b)
{
    const struct stmt *const *x = a, *const *y = b;
    return (*x)->scope != (*y)->scope ? (int)(*x)->scope - (int)(*y)->scope : strcmp((*x)->name, (*y)->name);
}

err show_statements(struct buf *b, bool json)
{
    static const struct column columns[] = { { "scope", 6 }, { "name", 28 }, { "sql", 0 }, { NULL } };
    /* what PostgreSQL is given, and whether a scan is accepted: for programs that look at plans */
    static const struct column all_columns[] = { { "scope", 6 }, { "name", 28 },    { "sql", 0 },
                                                 { "scans", 5 }, { "postgres", 0 }, { NULL } };
    static const char *const scopes[] = { [SCOPE_TENANT] = "tenant", [SCOPE_SYSTEM] = "system" };
    size_t n;
    const struct stmt *const *all = db_statements(&n);
    const struct stmt **sorted = NEW_N(b->arena, const struct stmt *, n);
    if (sorted == NULL)
        return ERR_MEMORY;
    memcpy(sorted, all, n * sizeof(struct stmt *));
    qsort(sorted, n, sizeof(struct stmt *), by_scope);
    struct sheet s = sheet_begin(b, json ? all_columns : columns, json);
    for (size_t i = 0; i < n; i++) {
        const struct stmt *t = sorted[i];
        row(&s, (str[]){ str_of(scopes[t->scope]), str_of(t->name), str_of(t->sql), t->scan_ok ? S("yes") : S("no"),
                         str_of(t->postgres != NULL ? t->postgres : t->sql) });
    }
    return sheet_end(&s);
}

err show_jobs(struct buf *b, bool json)
{
    static const struct column columns[] = { { "kind", 24 }, { "period", 10 }, { "doc", 0 }, { NULL } };
    struct sheet s = sheet_begin(b, columns, json);
    for (const struct module *const *m = modules; *m != NULL; m++)
        for (u32 i = 0; i < (*m)->job_count; i++) {
            const struct job_kind *k = &(*m)->jobs[i];
            row(&s, (str[]){ str_of(k->name), span(b->arena, k->every_us), str_of(k->doc) });
        }
    return sheet_end(&s);
}

err show_config(struct buf *b, bool json)
{
    static const struct column columns[] = { { "name", 0 },   { "value", 0 }, { "source", 0 }, { "default", 0 },
                                             { "bounds", 0 }, { "alias", 0 }, { "help", 0 },   { NULL } };
    struct config_row *list;
    u32 n;
    if (!json) {
        config_print(b);
        return b->fail;
    }
    TRY(config_rows(b->arena, &list, &n));
    struct sheet s = sheet_begin(b, columns, json);
    for (u32 i = 0; i < n; i++)
        row(&s, (str[]){ str_of(list[i].name), list[i].value, str_of(list[i].source), str_of(list[i].preset),
                         list[i].bounds, str_of(list[i].alias), str_of(list[i].help) });
    return sheet_end(&s);
}

err show_openapi(struct buf *b, bool json)
{
    TRY(openapi_build(b->arena));
    buf_str(b, openapi_text());
    buf_char(b, '\n');
    return b->fail;
}
