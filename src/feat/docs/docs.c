/* docs.c - the pages for people: /docs (Swagger UI) and /redoc, the files that they load, and /docs/errors.
 *
 * The two viewers are npm packages that `make console` fetches and the build embeds. A server that was built without them has the same pages
 * with links to the document instead: nothing is ever loaded from somewhere else. */
#include "feat/docs/docs_parts.h"
#include "core/app.h"

#include <stdio.h>
#include <string.h>

/* The pages' own files; they would not be worth a step of the build. */
static const char script[] =
    "window.addEventListener('load', () => SwaggerUIBundle({ url: '/openapi.json', dom_id: '#ui', deepLinking: true,\n"
    "    validatorUrl: null, displayRequestDuration: true }));\n";
static const char style[] =
    "body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #1f2430; background: #fff; }\n"
    "main { max-width: 52rem; margin: 0 auto; padding: 2rem 1rem; }\n"
    "nav { padding: .5rem 1rem; background: #1f2430; color: #fff; }\nnav a { color: #fff; margin-right: 1rem; }\n"
    "code, h3 { font-family: ui-monospace, monospace; }\nh3 { margin: 1.2rem 0 0; font-size: 1rem; }\n"
    "h3:target { background: #fff3bf; }\np { margin: .2rem 0; }\n"
    "@media (prefers-color-scheme: dark) { body:not(.light) { color: #d8dee9; background: #16181d; }\n"
    "  body:not(.light) a { color: #8fbcff; } h3:target { background: #4a3f10; } }\n";
static const struct docs_asset own[] = {
    { "docs.js", "text/javascript; charset=utf-8", WEIR_VERSION "-1", { { script, sizeof script - 1 } } },
    { "docs.css", "text/css; charset=utf-8", WEIR_VERSION "-1", { { style, sizeof style - 1 } } },
};

#define PAGE_HEAD                                                                                          \
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"                              \
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Weir: API</title>\n" \
    "<link rel=\"stylesheet\" href=\"/docs/assets/docs.css\">\n"
#define PAGE_LINKS                                                                                         \
    "<a href=\"/docs\">API</a> <a href=\"/redoc\">Reference</a> <a href=\"/docs/errors\">Error codes</a> " \
    "<a href=\"/openapi.json\">openapi.json</a>"

static const char swagger_page[] =
    PAGE_HEAD "<link rel=\"stylesheet\" href=\"/docs/assets/swagger-ui.css\">\n"
              "<script src=\"/docs/assets/swagger-ui-bundle.js\" defer></script>\n"
              "<script src=\"/docs/assets/docs.js\" defer></script>\n</head>\n<body class=\"light\">\n"
              "<nav>" PAGE_LINKS "</nav>\n<div id=\"ui\"></div>\n</body>\n</html>\n";
static const char redoc_page[] =
    PAGE_HEAD "<script src=\"/docs/assets/redoc.standalone.js\" defer></script>\n</head>\n<body class=\"light\">\n"
              "<nav>" PAGE_LINKS "</nav>\n<redoc spec-url=\"/openapi.json\"></redoc>\n</body>\n</html>\n";
static const char plain_page[] =
    PAGE_HEAD "</head>\n<body>\n<main>\n<h1>The API of Weir</h1>\n"
              "<p>This server was built without the viewers (<code>make console</code>, then build again). "
              "What they would show is all here:</p>\n<p>" PAGE_LINKS "</p>\n</main>\n</body>\n</html>\n";

/* Only our own files. Redoc writes style elements into the page and searches in a worker that it makes from a blob:, so it gets those two; Swagger UI
 * draws its icons from data: images. Scripts come from files for both. */
#define POLICY(styles, more)                                                                                           \
    "default-src 'none'; script-src 'self'; style-src 'self'" styles "; img-src 'self' data:; connect-src 'self'" more \
    "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
static const str swagger_policy = S_INIT(POLICY("", ""));
static const str redoc_policy = S_INIT(POLICY(" 'unsafe-inline'", "; worker-src blob:"));
static const str plain_policy =
    S_INIT("default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");

static str errors_page; /* made at start, constant afterwards */

/* -- files --------------------------------------------------------------------------------------------------------- */

const struct docs_asset *docs_asset_by(str name)
{
    for (const struct docs_asset *a = docs_assets; a->name != NULL; a++)
        if (str_eq(str_of(a->name), name))
            return a;
    for (size_t i = 0; i < COUNT(own); i++)
        if (str_eq(str_of(own[i].name), name))
            return &own[i];
    return NULL;
}

static str etag_of(struct req *rq, const struct docs_asset *a, enum coding coding)
{
    str mark = coding_name(coding);
    return strf(rq->arena, "\"%s%s%.*s\"", a->etag, mark.n > 0 ? "-" : "", STR_FMT(mark));
}

err docs_file(struct req *rq)
{
    const struct docs_asset *a = docs_asset_by(rq->params[0]);
    if (a == NULL)
        return problem(rq, &problem_route, "There is nothing at this path");
    enum coding coding = coding_choose(req_header(rq, "accept-encoding"));
    if (a->bodies[coding].p == NULL)
        coding = CODING_NONE;
    str etag = etag_of(rq, a, coding), known = req_header(rq, "if-none-match");
    if (etag.p == NULL)
        return ERR_MEMORY;
    reply_header(rq, "ETag", etag);
    reply_header(rq, "Cache-Control", S("public, max-age=3600"));
    if (a->bodies[CODING_GZIP].p != NULL)
        reply_header(rq, "Vary", S("Accept-Encoding"));
    if (known.n > 0 && str_find(known, etag, 0) >= 0)
        return reply_empty(rq, 304);
    if (coding != CODING_NONE)
        reply_header(rq, "Content-Encoding", coding_name(coding));
    return reply_raw(rq, 200, str_of(a->type), (str){ a->bodies[coding].p, a->bodies[coding].n });
}

/* -- pages --------------------------------------------------------------------------------------------------------- */

static err reply_page(struct req *rq, str policy, str page)
{
    reply_header(rq, "Content-Security-Policy", policy);
    reply_header(rq, "Cache-Control", S("no-cache"));
    return reply_raw(rq, 200, S("text/html; charset=utf-8"), page);
}

static err reply_viewer(struct req *rq, const char *file, str policy, const char *page)
{
    if (docs_asset_by(str_of(file)) == NULL)
        return reply_page(rq, plain_policy, str_of(plain_page));
    return reply_page(rq, policy, str_of(page));
}

err docs_swagger(struct req *rq)
{
    return reply_viewer(rq, "swagger-ui-bundle.js", swagger_policy, swagger_page);
}

err docs_redoc(struct req *rq)
{
    return reply_viewer(rq, "redoc.standalone.js", redoc_policy, redoc_page);
}

static err docs_errors(struct req *rq)
{
    return reply_page(rq, plain_policy, errors_page);
}

static err start(void)
{
    struct buf b = { .arena = app.arena };
    struct catalogue_row *rows;
    u32 n;
    TRY(catalogue_make(app.arena, &rows, &n));
    TRY(docs_errors_write(&b, rows, n));
    errors_page = buf_view(&b);
    return OK;
}

/* -- routes -------------------------------------------------------------------------------------------------------- */

#define PAGE .need = &anyone, .flags = R_NO_STORE | R_TEXT, .produces = "text/html; charset=utf-8"

static const struct route routes[] = {
    { ROUTE(GET, "/docs", docs_swagger, W_READ), PAGE, .doc = "The API as a page to try it out",
      .more = "Swagger UI, served by this server alone; only links when it was built without." },
    { ROUTE(GET, "/redoc", docs_redoc, W_READ), PAGE, .doc = "The API as a page to read",
      .more = "Redoc, served by this server alone; only links when it was built without." },
    { ROUTE(GET, "/docs/errors", docs_errors, W_READ), PAGE, .doc = "Every error code, explained",
      .more = "The `type` of a problem leads to its code here." },
    { ROUTE(GET, "/docs/assets/{name}", docs_file, W_READ), .need = &anyone, .flags = R_NO_STORE | R_TEXT | R_HIDDEN,
      .produces = "*/*", .doc = "A file that these pages load" },
};

const struct module docs_module = {
    .name = "docs",
    .doc = "Pages about this API",
    .routes = routes,
    .route_count = COUNT(routes),
    .start = start,
};
