/* audit.c - reading the audit log: filtered pages of JSON, and exports as CSV or NDJSON by Accept. There is no way to change a row.
 *
 * An export is the same list in another form: at most 10,000 rows, and a Link to the next. Texts of a CSV that a spreadsheet would take for a formula get an apostrophe
 * in front. */
#include "feat/audit/audit.h"

#include "base/clock.h"
#include "core/app.h"
#include "core/audit_chain.h"
#include "core/jobs.h"
#include "core/list.h"
#include "codec/url.h"

#include <string.h>

enum { PAGE_MAX = 100, PAGE_PRESET = 20, EXPORT_MAX = 10000 };

/* ---- fields ---- */

struct entry {
    struct presence has;
    str id, actor, action, object_id, changed, detail, request_id, ip, seal;
    i64 seq, created_at;
};
static const struct field fields[] = {
    FIELD(struct entry, id, F_STR, .flags = F_OUTPUT, .format = "id", .prefix = "audit", .doc = "Id of the entry"),
    FIELD(struct entry, seq, F_I64, .flags = F_OUTPUT | F_NULLABLE,
          .doc = "Place in the tenant's chain; null until it is sealed, a second at most"),
    FIELD(struct entry, created_at, F_TIME, .flags = F_OUTPUT, .doc = "When"),
    FIELD(struct entry, actor, F_STR, .flags = F_OUTPUT | F_NULLABLE, .max = 120,
          .doc = "Id of the user who did; a word where it was no user; null where it is unknown"),
    FIELD(struct entry, detail, F_STR, .flags = F_OUTPUT | F_NULLABLE, .max = 120,
          .doc = "Id of the API key by which the user did, or a word more"),
    FIELD(struct entry, action, F_STR, .flags = F_OUTPUT, .max = 80, .doc = "What was done: word.verb"),
    FIELD(struct entry, object_id, F_STR, .flags = F_OUTPUT | F_NULLABLE, .max = 120, .doc = "To which object"),
    FIELD(struct entry, changed, F_STR, .flags = F_OUTPUT | F_NULLABLE, .doc = "Names of the fields that changed"),
    FIELD(struct entry, ip, F_STR, .flags = F_OUTPUT | F_NULLABLE, .max = 64, .doc = "Address of the request"),
    FIELD(struct entry, request_id, F_STR, .flags = F_OUTPUT | F_NULLABLE, .max = 64, .doc = "Id of the request"),
    FIELD(struct entry, seal, F_STR, .flags = F_OUTPUT | F_NULLABLE, .max = 64,
          .doc = "MAC over the entry and the seal before it; weir audit verify checks them"),
};
static const struct table entry_table = TABLE("AuditEntry", struct entry, fields, .doc = "Who did what");

struct query {
    struct presence has;
    i64 limit, skip, from, to;
    str cursor, actor, action, object_id;
    bool count;
};
static const struct field query_fields[] = {
    FIELD(struct query, limit, F_I64, .min = 1, .max = EXPORT_MAX,
          .doc = "Rows to return: 20, at most 100; of an export 10,000"),
    FIELD(struct query, skip, F_I64, .min = 0, .max = 1000000, .preset = "0", .doc = "Rows to leave out first"),
    FIELD(struct query, cursor, F_STR, .max = 200, .doc = "Continue after the row that the Link header named"),
    FIELD(struct query, count, F_BOOL, .preset = "false", .doc = "Send the number of all rows as X-Total-Count"),
    FIELD(struct query, actor, F_STR, .min = 1, .max = 120, .doc = "Only what this user did"),
    FIELD(struct query, action, F_STR, .min = 1, .max = 80, .doc = "Only this action, as users.update"),
    FIELD(struct query, object_id, F_STR, .min = 1, .max = 120, .doc = "Only what was done to this object"),
    FIELD(struct query, from, F_TIME, .doc = "Only from this time on"),
    FIELD(struct query, to, F_TIME, .doc = "Only before this time"),
};
static const struct table query_table = TABLE("AuditQuery", struct query, query_fields, .doc = "Filters of the log");

PERMISSION(can_read, "audit.read", ROLES_ADMINS, "Read and export the audit log of the tenant");

#define AUDIT_WHERE                                                                                \
    " FROM audit_logs WHERE tenant_id = $1" LIST_FILTER("actor", "$2") LIST_FILTER("action", "$3") \
        LIST_FILTER("object_id", "$4") " AND created_at >= $5 AND created_at < $6"
STMT(audit_page,
     "SELECT id, seq, created_at, actor, detail, action, object_id, changed, ip, request_id, seal" AUDIT_WHERE
     " AND id < $7 ORDER BY id DESC LIMIT $8 OFFSET $9",
     .row = &entry_table);
STMT(audit_count, "SELECT count(*) AS n" AUDIT_WHERE, .row = &list_count_table);

/* ---- exports ---- */

static void csv_text(struct buf *b, str s)
{
    bool formula = s.n > 0 && strchr("=+-@\t\r", s.p[0]) != NULL;
    BUF_LIT(b, "\"");
    if (formula)
        buf_char(b, '\'');
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '"')
            buf_char(b, '"');
        buf_char(b, s.p[i]);
    }
    BUF_LIT(b, "\"");
}

static void csv_field(struct buf *b, const struct field *f, const struct entry *e, bool null)
{
    const char *at = (const char *)e + f->offset;
    char time[CLOCK_TEXT];
    if (null)
        return;
    if (f->kind == F_STR)
        csv_text(b, *(const str *)(const void *)at);
    else if (f->kind == F_I64)
        buf_i64(b, *(const i64 *)(const void *)at);
    else {
        clock_text(*(const i64 *)(const void *)at, time);
        buf_put(b, time, sizeof time);
    }
}

static void write_csv(struct buf *b, const struct entry *rows, u32 n)
{
    for (u32 i = 0; i < COUNT(fields); i++)
        buf_f(b, "%s%s", i > 0 ? "," : "", fields[i].name);
    BUF_LIT(b, "\r\n");
    for (u32 r = 0; r < n; r++) {
        for (u32 i = 0; i < COUNT(fields); i++) {
            if (i > 0)
                buf_char(b, ',');
            csv_field(b, &fields[i], &rows[r], rows[r].has.null >> i & 1);
        }
        BUF_LIT(b, "\r\n");
    }
}

static void write_ndjson(struct buf *b, const struct entry *rows, u32 n)
{
    for (u32 i = 0; i < n; i++) {
        field_encode(b, &entry_table, &rows[i]);
        buf_char(b, '\n');
    }
}

static const struct form {
    str accept, type, name;
    void (*write)(struct buf *b, const struct entry *rows, u32 n);
} forms[] = {
    { S_INIT("text/csv"), S_INIT("text/csv; charset=utf-8; header=present"), S_INIT("audit.csv"), write_csv },
    { S_INIT("application/x-ndjson"), S_INIT("application/x-ndjson"), S_INIT("audit.ndjson"), write_ndjson },
};

/* The first form that Accept names, without the fine print of weights: whoever wants an export says nothing else. */
static const struct form *form_of(const struct req *rq)
{
    str accept = req_header(rq, "accept"), one;
    while (str_cut(&accept, ',', &one)) {
        str type = STR_NONE;
        if (!str_cut(&one, ';', &type))
            continue;
        for (size_t i = 0; i < COUNT(forms); i++)
            if (str_eq_nocase(str_trim(type), forms[i].accept))
                return &forms[i];
    }
    return NULL;
}

static err export(struct req *rq, const struct form *f, const struct entry *rows, u32 n)
{
    struct buf b = { .arena = rq->arena };
    f->write(&b, rows, n);
    TRY(b.fail);
    str disposition = strf(rq->arena, "attachment; filename=\"%.*s\"", STR_FMT(f->name));
    reply_header(rq, "Content-Disposition", disposition);
    return reply_raw(rq, 200, f->type, buf_view(&b));
}

/* ---- the list ---- */

/* Sets the Link and the count as for any list; what goes out may take another form. */
static err list(struct req *rq)
{
    const struct query *q = rq->query;
    const struct form *form = form_of(rq);
    i64 most = form != NULL ? EXPORT_MAX : PAGE_MAX;
    i64 limit = HAS(query_table, q, limit) ? q->limit : form != NULL ? EXPORT_MAX : PAGE_PRESET;
    struct page page = { .limit = limit, .skip = q->skip, .cursor = q->cursor, .count = q->count };
    struct list_count count = { .n = -1 };
    void *rows;
    u32 n;
    if (limit > most)
        return problems_add(&rq->errors, S("query/limit"), "field.range", "must be at most %lld here", (long long)most);
    struct arg args[] = { TENANT(rq),         STR(q->actor),     STR(q->action),
                          STR(q->object_id),  I64(q->from),      I64(HAS(query_table, q, to) ? q->to : INT64_MAX),
                          list_before(&page), list_limit(&page), I64(page.skip) };
    TRY(db_list(rq->tx, &audit_page, (u32)limit + 1, &rows, &n, (struct args){ args, COUNT(args) }));
    if (q->count)
        TRY(db_row(rq->tx, &audit_count, &count, (struct args){ args, 6 }));
    TRY(reply_list(rq, &entry_table, rows, n, &page, offsetof(struct entry, id), count.n, 0));
    return form != NULL ? export(rq, form, rows, (u32)MIN((i64)n, limit)) : OK;
}

/* ---- the module ---- */

static err prune(const struct job *job)
{
    i64 pruned;
    if (app.config.audit_days == 0)
        return OK;
    return audit_prune(app.db, job->arena, job->now_us - app.config.audit_days * DAY_US, &pruned);
}

static const char *const export_types[] = { "text/csv", "application/x-ndjson", NULL };
static const struct route routes[] = {
    { ROUTE(GET, "/api/v1/audit-logs", list, W_SLOW), .need = &can_read, .query = &query_table, .out = &entry_table,
      .flags = R_LIST, .also_types = export_types, .doc = "Read the audit log of the tenant, newest first",
      .more =
          "With Accept: text/csv or application/x-ndjson the same rows as a file, at most 10,000 of them; Link names the next." },
};
static const struct job_kind jobs[] = {
    { .name = "audit.prune",
      .run = prune,
      .every_us = DAY_US,
      .timeout_us = HOUR_US,
      .doc = "Deletes audit entries older than WEIR_AUDIT_DAYS from the beginning of their chains" },
};

const struct module audit_module = {
    .name = "audit",
    .doc = "Who did what, sealed so that nobody changes it unseen",
    .routes = routes,
    .route_count = COUNT(routes),
    .jobs = jobs,
    .job_count = COUNT(jobs),
    .start = audit_seal_start,
    .stop = audit_seal_stop,
};
