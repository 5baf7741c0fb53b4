/* docs_errors.c - /docs/errors: where the `type` of every problem leads. One anchor for each code, whatever its kinds.
 *
 * It is an HTML page without a script, so it reads in anything; what it shows of a code comes from the catalogue alone. */
#include "feat/docs/docs_parts.h"

#include <string.h>

static const char head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Weir: error codes</title>\n"
    "<link rel=\"stylesheet\" href=\"/docs/assets/docs.css\">\n</head>\n<body>\n<main>\n<h1>Error codes</h1>\n"
    "<p>Codes are stable and for programs; texts are for people and may change. A <b>problem</b> is an answer of its own "
    "(RFC 9457), and a <b>refusal</b> one that the server gives before it looks at a route; both have a status. An "
    "<b>entry</b> stands in the <code>errors</code> of a problem, and a <b>failure</b> in the <code>error</code> of a step or "
    "an execution.</p>\n"
    "<p><a href=\"/docs\">API</a> · <a href=\"/redoc\">Reference</a> · <a href=\"/openapi.json\">openapi.json</a></p>\n";
static const char foot[] = "</main>\n</body>\n</html>\n";

static void put_text(struct buf *b, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '<')
            BUF_LIT(b, "&lt;");
        else if (*text == '&')
            BUF_LIT(b, "&amp;");
        else if (*text == '"')
            BUF_LIT(b, "&quot;");
        else
            buf_char(b, *text);
    }
}

static void put_kind(struct buf *b, const struct catalogue_row *row)
{
    BUF_LIT(b, "<p>");
    if (row->status != 0)
        buf_f(b, "<b>%d</b> ", row->status);
    buf_f(b, "%s: ", row->kind);
    put_text(b, row->title);
    BUF_LIT(b, ".</p>\n");
}

/* Up to the dot. */
static bool same_word(const char *a, const char *b)
{
    size_t n = strcspn(a, ".");
    return strncmp(a, b, n + 1) == 0;
}

err docs_errors_write(struct buf *b, const struct catalogue_row *rows, u32 n)
{
    buf_str(b, str_of(head));
    for (u32 i = 0; i < n; i++) {
        const char *code = rows[i].code;
        if (i == 0 || !same_word(rows[i - 1].code, code))
            buf_f(b, "<h2>%.*s</h2>\n", (int)strcspn(code, "."), code);
        if (i == 0 || strcmp(rows[i - 1].code, code) != 0)
            buf_f(b, "<h3 id=\"%s\"><a href=\"#%s\">%s</a></h3>\n", code, code, code);
        put_kind(b, &rows[i]);
    }
    buf_str(b, str_of(foot));
    return b->fail;
}
