/* catalogue.c - the layers' lists of codes made into one.
 *
 * A code may stand in it twice, with two kinds: what is wrong with one entry here can be the whole answer there. */
#include "core/catalogue.h"
#include "base/code.h"
#include "core/problem.h"
#include "net/refusal.h"

#include <stdlib.h>
#include <string.h>

static const char *const use_names[] = { [CODE_ENTRY] = "entry", [CODE_FAILURE] = "failure" };

/* The last src/, since the folder around it may have that name too. */
const char *catalogue_file(const char *file)
{
    const char *found = file;
    for (const char *p = file; (p = strstr(p, "src/")) != NULL; p++)
        found = p;
    return found;
}

static u32 add_problems(struct catalogue_row *out)
{
    size_t n;
    const struct problem *const *all = problems_all(&n);
    for (size_t i = 0; i < n; i++)
        out[i] = (struct catalogue_row){ .code = all[i]->code,
                                         .kind = "problem",
                                         .status = err_status(all[i]->class),
                                         .title = all[i]->title,
                                         .file = all[i]->file,
                                         .line = all[i]->line };
    return (u32)n;
}

static u32 add_refusals(struct catalogue_row *out)
{
    u32 n = 0;
    for (int i = REFUSE_NONE + 1; i < REFUSALS; i++)
        out[n++] = (struct catalogue_row){ .code = http_refusals[i].code,
                                           .kind = "refusal",
                                           .status = http_refusals[i].status,
                                           .title = http_refusals[i].text,
                                           .file = "src/net/refusal.h",
                                           .line = 1 };
    return n;
}

static u32 add_lists(struct catalogue_row *out)
{
    size_t lists;
    u32 n = 0;
    const struct code_list *const *all = code_lists(&lists);
    for (size_t i = 0; i < lists; i++)
        for (u32 k = 0; k < all[i]->n; k++)
            out[n++] = (struct catalogue_row){ .code = all[i]->list[k].code,
                                               .kind = use_names[all[i]->use],
                                               .title = all[i]->list[k].title,
                                               .file = all[i]->file,
                                               .line = all[i]->line };
    return n;
}

static size_t room(void)
{
    size_t problems, lists, total;
    problems_all(&problems);
    const struct code_list *const *all = code_lists(&lists);
    total = problems + REFUSALS;
    for (size_t i = 0; i < lists; i++)
        total += all[i]->n;
    return total;
}

static int compare(const void *a, const void *b)
{
    const struct catalogue_row *x = a, *y = b;
    int by_code = strcmp(x->code, y->code), by_kind = strcmp(x->kind, y->kind);
    return by_code != 0 ? by_code : by_kind != 0 ? by_kind : x->line - y->line;
}

err catalogue_make(struct arena *a, struct catalogue_row **list, u32 *n)
{
    struct catalogue_row *rows = NEW_N(a, struct catalogue_row, room());
    if (rows == NULL)
        return ERR_MEMORY;
    u32 count = add_problems(rows), kept = 0;
    count += add_refusals(rows + count);
    count += add_lists(rows + count);
    qsort(rows, count, sizeof *rows, compare);
    for (u32 i = 0; i < count; i++) {
        bool same = kept > 0 && strcmp(rows[kept - 1].code, rows[i].code) == 0 &&
                    strcmp(rows[kept - 1].kind, rows[i].kind) == 0;
        if (same)
            continue;
        rows[kept] = rows[i];
        rows[kept++].file = catalogue_file(rows[i].file);
    }
    *list = rows;
    *n = kept;
    return OK;
}
