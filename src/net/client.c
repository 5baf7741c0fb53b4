/* client.c - see client.h.
 *
 * Redirects are followed here and not by curl, for two reasons: a pooled connection to an allowed inner host must not serve a
 * redirect (so every hop opens a fresh socket, which the guard sees), and headers that may hold a secret stay behind when the
 * origin changes. `done` is called from pump(), timers and client_cancel() only, never from inside curl. */
#include "net/client.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/code.h"
#include "base/fault.h"

#include <curl/curl.h>
#include <pthread.h>
#include <string.h>

enum {
    CALLS_MAX = 4096,
    POOL_MAX = 256, /* idle connections kept per loop */
    CLIENT_ARENA_BYTES = 16 << 20,
    HEADER_BYTES_MAX = 64 << 10, /* of one answer */
    HEADERS_MAX = 1000,
    URL_MAX = 16 << 10,
    REQUEST_HEADERS_MAX = 200,
};
#define TIMEOUT_MAX_US (10 * MINUTE_US)

struct watch { /* one socket of curl's in libuv; recycled, because curl opens and closes them all the time */
    uv_poll_t poll;
    struct client *client;
    curl_socket_t fd;
    struct watch *next;
};

struct client {
    struct arena *arena;
    struct loop *loop;
    const struct egress *egress;
    CURLM *multi;
    struct loop_timer timer;
    struct client_call *calls;
    struct watch *free_watches;
    u32 running, watches;
    bool closing;
};

struct failure {
    CURLcode curl;
    err error;
    const char *code, *text;
};

struct client_call {
    struct client *client;
    struct client_call *prev, *next;
    struct arena *arena;
    void (*done)(void *ctx, const struct client_answer *answer);
    void *ctx;
    struct client_request request; /* copies on the arena */
    CURL *easy;
    CURLU *url;
    struct curl_slist *headers;
    struct loop_timer fail_timer; /* brings a failure that was known at the start, later as promised */
    str host;
    u16 port;
    i64 started_us;
    u32 hops;
    bool other_origin; /* some hop has left the first one: from then on it stays so */
    bool blocked, head_done, header_flood, body_flood, no_memory, withheld;
    struct pair *answer_headers;
    size_t answer_header_count, header_bytes;
    struct buf body;
    const struct failure *early;
};

/* --- failures ---------------------------------------------------------------------------------------------------- */

CODES(client_codes, CODE_FAILURE, { "egress.blocked", "The address is not public, and not on the allow list" },
      { "http.url", "The URL is no absolute http or https URL" },
      { "http.connect", "The host could not be resolved or reached" },
      { "http.tls", "The TLS handshake failed, or the certificate is not trusted" },
      { "http.protocol", "The answer is no valid HTTP, or was cut short" },
      { "http.timeout", "The server did not answer in time" },
      { "http.too_large", "The answer is larger than allowed" }, { "http.cancelled", "The call was cancelled" });

/* What is not listed is http.protocol. The texts are ours: curl's own may quote the URL. */
static const struct failure failures[] = {
    { CURLE_OPERATION_TIMEDOUT, ERR_TIMEOUT, "http.timeout", "The server did not answer in time" },
    { CURLE_COULDNT_RESOLVE_HOST, ERR_UPSTREAM, "http.connect", "The host name could not be resolved" },
    { CURLE_COULDNT_CONNECT, ERR_UPSTREAM, "http.connect", "The connection failed" },
    { CURLE_SEND_ERROR, ERR_UPSTREAM, "http.connect", "The connection was lost while sending" },
    { CURLE_RECV_ERROR, ERR_UPSTREAM, "http.connect", "The connection was lost while receiving" },
    { CURLE_GOT_NOTHING, ERR_UPSTREAM, "http.protocol", "The server closed the connection without an answer" },
    { CURLE_PARTIAL_FILE, ERR_UPSTREAM, "http.protocol", "The answer was cut short" },
    { CURLE_BAD_CONTENT_ENCODING, ERR_UPSTREAM, "http.protocol", "The answer's content encoding is wrong" },
    { CURLE_SSL_CONNECT_ERROR, ERR_UPSTREAM, "http.tls", "The TLS handshake failed" },
    { CURLE_PEER_FAILED_VERIFICATION, ERR_UPSTREAM, "http.tls", "The server's certificate is not trusted" },
    { CURLE_SSL_CERTPROBLEM, ERR_UPSTREAM, "http.tls", "The TLS certificate is unusable" },
    { CURLE_SSL_CIPHER, ERR_UPSTREAM, "http.tls", "No common TLS cipher" },
    { CURLE_SSL_ISSUER_ERROR, ERR_UPSTREAM, "http.tls", "The issuer check failed" },
    { CURLE_SSL_INVALIDCERTSTATUS, ERR_UPSTREAM, "http.tls", "The certificate status is bad" },
    { CURLE_URL_MALFORMAT, ERR_INVALID, "http.url", "The URL is malformed" },
    { CURLE_UNSUPPORTED_PROTOCOL, ERR_INVALID, "http.url", "Only http and https are spoken" },
    { CURLE_OUT_OF_MEMORY, ERR_MEMORY, "http.too_large", "Out of memory for the answer" },
};
static const struct failure protocol_failure = { CURLE_OK, ERR_UPSTREAM, "http.protocol",
                                                 "The answer is not valid HTTP" };
static const struct failure blocked_failure = { CURLE_OK, ERR_FORBIDDEN, "egress.blocked",
                                                "The address is not public and not on the allow list" };
static const struct failure flood_failure = { CURLE_OK, ERR_TOO_LARGE, "http.too_large",
                                              "The answer's body is too large" };
static const struct failure header_failure = { CURLE_OK, ERR_UPSTREAM, "http.protocol",
                                               "The answer's header is too large" };
static const struct failure memory_failure = { CURLE_OK, ERR_MEMORY, "http.too_large", "Out of memory for the answer" };
static const struct failure cancelled = { CURLE_OK, ERR_TIMEOUT, "http.cancelled", "The call was cancelled" };
static const struct failure withheld = { CURLE_OK, ERR_BUSY, "http.cancelled", "The call was not sent" };
static const struct failure bad_url = { CURLE_OK, ERR_INVALID, "http.url",
                                        "The URL is not an absolute http or https URL" };
static const struct failure fault = { CURLE_OK, ERR_UPSTREAM, "http.connect", "The connection failed" };

static const struct failure *failure_of(const struct client_call *call, CURLcode code)
{
    if (call->no_memory)
        return &memory_failure;
    if (call->withheld)
        return &withheld;
    if (call->body_flood)
        return &flood_failure;
    if (call->header_flood)
        return &header_failure;
    if (call->blocked && code != CURLE_OPERATION_TIMEDOUT)
        return &blocked_failure;
    for (size_t i = 0; i < COUNT(failures); i++)
        if (failures[i].curl == code)
            return &failures[i];
    return &protocol_failure;
}

/* --- ending a call ----------------------------------------------------------------------------------------------- */

static void call_release(struct client_call *call)
{
    struct client *c = call->client;
    loop_timer_stop(&call->fail_timer);
    if (call->easy != NULL) {
        curl_multi_remove_handle(c->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    curl_url_cleanup(call->url);
    curl_slist_free_all(call->headers);
    if (call->prev != NULL)
        call->prev->next = call->next;
    else
        c->calls = call->next;
    if (call->next != NULL)
        call->next->prev = call->prev;
    c->running--;
}

/* The caller may free the arena, and with it the call, inside `done`: nothing is touched afterwards. */
static void call_fail(struct client_call *call, const struct failure *why)
{
    str host = call->host.p != NULL ? call->host : S("");
    str detail = strf(call->arena, "%s%s%.*s", why->text, host.n > 0 ? ": " : "", STR_FMT(host));
    struct client_answer answer = {
        .error = why->error,
        .code = why->code,
        .detail = detail.p != NULL ? detail : str_of(why->text),
        .duration_us = clock_mono_us() - call->started_us,
    };
    call_release(call);
    call->done(call->ctx, &answer);
}

static void call_succeed(struct client_call *call, long status)
{
    struct client_answer answer = {
        .error = OK,
        .status = (int)status,
        .headers = call->answer_headers,
        .header_count = call->answer_header_count,
        .body = buf_view(&call->body),
        .duration_us = clock_mono_us() - call->started_us,
    };
    call_release(call);
    call->done(call->ctx, &answer);
}

void client_cancel(struct client_call *call)
{
    call_fail(call, &cancelled);
}

/* --- what curl tells us about an answer -------------------------------------------------------------------------- */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct client_call *call = arg;
    size_t bytes = size * n;
    buf_put(&call->body, p, bytes);
    call->body_flood = call->body.fail == ERR_TOO_LARGE;
    call->no_memory = call->body.fail == ERR_MEMORY;
    return call->body.fail == OK ? bytes : 0;
}

static err headers_room(struct client_call *call)
{
    size_t n = call->answer_header_count, step = 16;
    if (n % step != 0)
        return OK;
    if (n >= HEADERS_MAX)
        return ERR_TOO_LARGE;
    void *p = arena_grow(call->arena, call->answer_headers, n * sizeof(struct pair), (n + step) * sizeof(struct pair));
    if (p == NULL)
        return ERR_MEMORY;
    call->answer_headers = p;
    return OK;
}

static err add_header(struct client_call *call, str line)
{
    i64 colon = str_find_char(line, ':', 0);
    if (colon <= 0 || line.p[0] == ' ' || line.p[0] == '\t')
        return OK; /* the status line; a folded line, which no one may send any more (RFC 9112 5.2) */
    TRY(headers_room(call));
    struct pair h = {
        str_lower(call->arena, str_slice(line, 0, (size_t)colon)),
        str_dup(call->arena, str_trim(str_slice(line, (size_t)colon + 1, line.n))),
    };
    if (h.name.p == NULL || h.value.p == NULL)
        return ERR_MEMORY;
    call->answer_headers[call->answer_header_count++] = h;
    return OK;
}

static void forget_head(struct client_call *call)
{
    call->answer_headers = NULL;
    call->answer_header_count = 0;
    call->head_done = false;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct client_call *call = arg;
    str line = { p, size * n };
    call->header_bytes += line.n;
    if (call->head_done && str_starts(line, S("HTTP/"))) /* behind a 1xx */
        forget_head(call);
    if (str_trim(line).n == 0)
        call->head_done = true;
    err e = call->head_done ? OK : add_header(call, line); /* trailers are left out */
    call->header_flood = e == ERR_TOO_LARGE || call->header_bytes > HEADER_BYTES_MAX;
    call->no_memory = e == ERR_MEMORY;
    return call->header_flood || call->no_memory ? 0 : line.n;
}

/* The guard: the one place where a socket of this client comes from. */
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct client_call *call = arg;
    str host = call->hops == 0 ? call->host : S("");
    if (purpose != CURLSOCKTYPE_IPCXN || !egress_allows(call->client->egress, &to->addr, host, call->port)) {
        call->blocked = true;
        return CURL_SOCKET_BAD;
    }
    return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

/* --- the request ------------------------------------------------------------------------------------------------- */

static bool is_token(str s)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i], low = (char)(c | 0x20);
        bool alnum = (low >= 'a' && low <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && (c == '\0' || strchr(others, c) == NULL))
            return false;
    }
    return s.n > 0;
}

static bool one_line(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '\r' || s.p[i] == '\n' || s.p[i] == '\0')
            return false;
    return true;
}

static err check_request(const struct client_request *r)
{
    if (!is_token(r->method) || r->header_count > REQUEST_HEADERS_MAX)
        return ERR_INVALID;
    for (size_t i = 0; i < r->header_count; i++)
        if (!is_token(r->headers[i].name) || !one_line(r->headers[i].value))
            return ERR_INVALID;
    return OK;
}

static bool name_in(str name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (str_eq_nocase(name, str_of(*list)))
            return true;
    return false;
}

/* Framing is curl's: a second opinion about it is how requests are smuggled. */
static const char *const framing[] = { "content-length", "transfer-encoding", "connection", "te", "trailer", NULL };
static const char *const of_body[] = { "content-type", "content-encoding", "content-language", NULL };
/* All that another origin gets to see. The rest may be a secret: an API key has no fixed name. */
static const char *const harmless[] = { "accept",       "accept-language",  "user-agent",
                                        "content-type", "content-encoding", NULL };

static err append_header(struct client_call *call, const char *line)
{
    struct curl_slist *list = line != NULL ? curl_slist_append(call->headers, line) : NULL;
    if (list == NULL)
        return ERR_MEMORY;
    call->headers = list;
    return OK;
}

/* "Name;" is how curl is told of a header without value, "Name:" how to leave one of its own out. */
static const char *header_line(struct arena *a, const struct pair *h)
{
    str line = h->value.n > 0 ? strf(a, "%.*s: %.*s", STR_FMT(h->name), STR_FMT(h->value))
                              : strf(a, "%.*s;", STR_FMT(h->name));
    return line.p;
}

static err build_headers(struct client_call *call, bool other_origin)
{
    const struct client_request *r = &call->request;
    bool has_type = false, has_expect = false;
    curl_slist_free_all(call->headers);
    call->headers = NULL;
    for (size_t i = 0; i < r->header_count; i++) {
        str name = r->headers[i].name;
        if (name_in(name, framing) || (r->body.p == NULL && call->hops > 0 && name_in(name, of_body)) ||
            (other_origin && !name_in(name, harmless)))
            continue;
        has_type |= str_eq_nocase(name, S("content-type"));
        has_expect |= str_eq_nocase(name, S("expect"));
        TRY(append_header(call, header_line(call->arena, &r->headers[i])));
    }
    TRY(has_type ? OK : append_header(call, "Content-Type:"));
    return has_expect ? OK : append_header(call, "Expect:");
}

static bool wants_body(str method)
{
    return str_eq(method, S("POST")) || str_eq(method, S("PUT")) || str_eq(method, S("PATCH"));
}

static err set_method(struct client_call *call)
{
    const struct client_request *r = &call->request;
    CURL *easy = call->easy;
    int bad = 0;
    if (str_eq(r->method, S("HEAD"))) {
        bad |= curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (r->body.p != NULL || wants_body(r->method)) {
        bad |= curl_easy_setopt(easy, CURLOPT_POST, 1L);
        bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body.n);
        bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDS, r->body.p != NULL ? r->body.p : "");
        bad |= curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, str_z(call->arena, r->method));
    } else {
        bool get = str_eq(r->method, S("GET"));
        bad |= curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
        bad |= curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, get ? NULL : str_z(call->arena, r->method));
    }
    return bad != 0 ? ERR_MEMORY : OK;
}

static long ms_left(i64 limit_us, i64 spent_us)
{
    if (limit_us <= 0 || limit_us > TIMEOUT_MAX_US)
        limit_us = TIMEOUT_MAX_US;
    return (long)MAX((limit_us - spent_us) / 1000, 1); /* 0 would mean "for ever" to curl */
}

static err set_hop(struct client_call *call)
{
    CURL *easy = call->easy;
    const struct client_request *r = &call->request;
    i64 spent_us = clock_mono_us() - call->started_us;
    int bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_CURLU, call->url);
    bad |= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
    bad |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, ms_left(r->connect_us, 0));
    bad |= curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, ms_left(r->timeout_us, spent_us));
    bad |= curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, call->hops > 0 ? 1L : 0L);
    TRY(bad != 0 ? ERR_MEMORY : OK);
    return set_method(call);
}

static int on_connected(void *ctx, char *remote, char *local, int remote_port, int local_port)
{
    struct client_call *call = ctx;
    call->withheld = call->hops == 0 && !call->request.may_send(call->request.may_ctx);
    return call->withheld ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

static err set_options(struct client_call *call)
{
    CURL *easy = call->easy;
    int bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* none, and none from the environment either */
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    bad |= curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    bad |= curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, ""); /* all that curl can decode */
    bad |= curl_easy_setopt(easy, CURLOPT_USERAGENT, "Weir/" WEIR_VERSION);
    bad |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* a cancelled call must not wait for its name server */
    bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
    bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    bad |= curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    if (call->request.may_send != NULL) {
        bad |= curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connected);
        bad |= curl_easy_setopt(easy, CURLOPT_PREREQDATA, call);
    }
    return bad != 0 ? ERR_MEMORY : OK;
}

/* --- the URL ----------------------------------------------------------------------------------------------------- */

/* curl's own parser, and its result is what curl connects by: a second parser would be a second opinion. */
static CURLU *parse_url(struct arena *a, str text)
{
    const char *z = text.n > 0 && text.n <= URL_MAX && one_line(text) ? str_z(a, text) : NULL;
    CURLU *url = z != NULL ? curl_url() : NULL;
    if (url != NULL && curl_url_set(url, CURLUPART_URL, z, 0) == CURLUE_OK)
        return url;
    curl_url_cleanup(url);
    return NULL;
}

static str url_part(struct arena *a, CURLU *url, CURLUPart part)
{
    char *text = NULL;
    if (curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK)
        return STR_NONE;
    str copy = str_lower(a, str_of(text));
    curl_free(text);
    return copy;
}

static bool same_origin(struct arena *a, CURLU *x, CURLU *y)
{
    return str_eq(url_part(a, x, CURLUPART_SCHEME), url_part(a, y, CURLUPART_SCHEME)) &&
           str_eq(url_part(a, x, CURLUPART_HOST), url_part(a, y, CURLUPART_HOST)) &&
           str_eq(url_part(a, x, CURLUPART_PORT), url_part(a, y, CURLUPART_PORT));
}

/* Makes `url` that of the call; the call owns it when this succeeds. */
static bool take_url(struct client_call *call, CURLU *url)
{
    i64 port;
    str scheme = url_part(call->arena, url, CURLUPART_SCHEME), host = url_part(call->arena, url, CURLUPART_HOST);
    bool web = str_eq(scheme, S("http")) || str_eq(scheme, S("https"));
    if (!web || host.n == 0 || !str_i64(url_part(call->arena, url, CURLUPART_PORT), 1, 65535, &port))
        return false;
    bool bracketed = host.p[0] == '[' && host.p[host.n - 1] == ']';
    curl_url_cleanup(call->url);
    call->url = url;
    call->host = bracketed ? str_slice(host, 1, host.n - 1) : host;
    call->port = (u16)port;
    return true;
}

/* --- redirects --------------------------------------------------------------------------------------------------- */

/* What browsers do, and RFC 9110 15.4 allows. */
static void redirect_method(struct client_call *call, long status)
{
    struct client_request *r = &call->request;
    bool post_becomes_get = (status == 301 || status == 302) && str_eq(r->method, S("POST"));
    bool see_other = status == 303 && !str_eq(r->method, S("HEAD"));
    if (!post_becomes_get && !see_other)
        return;
    r->method = S("GET");
    r->body = STR_NONE;
}

/* The user of the first URL stays with its origin; one written into a Location is never used. */
static void carry_user(CURLU *from, CURLU *to, bool same)
{
    static const CURLUPart parts[] = { CURLUPART_USER, CURLUPART_PASSWORD };
    for (size_t i = 0; i < COUNT(parts); i++) {
        char *text = NULL;
        if (same)
            curl_url_get(from, parts[i], &text, 0);
        curl_url_set(to, parts[i], text, 0);
        curl_free(text);
    }
}

static err follow(struct client_call *call, CURLU *to, long status)
{
    bool same = same_origin(call->arena, call->url, to);
    carry_user(call->url, to, same);
    curl_multi_remove_handle(call->client->multi, call->easy);
    if (!take_url(call, to)) {
        curl_url_cleanup(to);
        return ERR_INVALID;
    }
    call->hops++;
    call->body.n = 0;
    call->header_bytes = 0;
    call->blocked = false;
    forget_head(call);
    redirect_method(call, status);
    call->other_origin |= !same;
    TRY(build_headers(call, call->other_origin));
    TRY(set_hop(call));
    return curl_multi_add_handle(call->client->multi, call->easy) == CURLM_OK ? OK : ERR_MEMORY;
}

static bool is_redirect(long status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Beyond the allowed number of hops, the redirect itself is the answer. */
static void answered(struct client_call *call)
{
    long status = 0;
    char *location = NULL;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    if (is_redirect(status) && call->hops < call->request.redirects)
        curl_easy_getinfo(call->easy, CURLINFO_REDIRECT_URL, &location);
    if (location == NULL) {
        call_succeed(call, status);
        return;
    }
    CURLU *to = parse_url(call->arena, str_of(location));
    err e = to != NULL ? follow(call, to, status) : ERR_INVALID;
    if (e != OK)
        call_fail(call, e == ERR_INVALID ? &bad_url : &memory_failure);
}

/* --- curl in the loop -------------------------------------------------------------------------------------------- */

static void pump(struct client *c)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &left)) != NULL;) {
        struct client_call *call = NULL;
        CURLcode code = m->data.result;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &call);
        if (code == CURLE_OK)
            answered(call);
        else
            call_fail(call, failure_of(call, code));
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *w = CONTAINER(poll, struct watch, poll);
    struct client *c = w->client;
    int flags = (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
    int running;
    curl_multi_socket_action(c->multi, w->fd, status < 0 ? CURL_CSELECT_ERR : flags, &running);
    pump(c);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *w = CONTAINER(handle, struct watch, poll);
    struct client *c = w->client;
    w->next = c->free_watches;
    c->free_watches = w;
    c->watches--;
    if (c->closing && c->watches == 0)
        arena_free(c->arena);
}

static struct watch *watch_open(struct client *c, curl_socket_t fd)
{
    struct watch *w = c->free_watches;
    if (w == NULL)
        w = NEW(c->arena, struct watch);
    else
        c->free_watches = w->next;
    if (w == NULL)
        return NULL;
    *w = (struct watch){ .client = c, .fd = fd };
    if (uv_poll_init(loop_uv(c->loop), &w->poll, fd) != 0) {
        w->next = c->free_watches;
        c->free_watches = w;
        return NULL;
    }
    c->watches++;
    return w;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *assigned)
{
    (void)easy;
    struct client *c = arg;
    struct watch *w = assigned;
    if (what == CURL_POLL_REMOVE) {
        if (w != NULL)
            uv_close((uv_handle_t *)&w->poll, on_watch_closed);
        curl_multi_assign(c->multi, fd, NULL);
        return 0;
    }
    if (w == NULL && (w = watch_open(c, fd)) == NULL)
        return -1;
    curl_multi_assign(c->multi, fd, w);
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_poll) == 0 ? 0 : -1;
}

static void on_timeout(struct loop_timer *t)
{
    struct client *c = CONTAINER(t, struct client, timer);
    int running;
    curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    pump(c);
}

/* curl never asks again for a time-out it has asked for, so firing a moment too early would hang the call: count from the
 * real time, not from the loop's cached one, and add a millisecond. */
static int on_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct client *c = arg;
    if (ms < 0) {
        loop_timer_stop(&c->timer);
        return 0;
    }
    i64 behind_us = clock_mono_us() - loop_now_mono_us(c->loop);
    i64 delay_us = ms == 0 ? 0 : behind_us + (ms + 1) * 1000;
    return loop_timer_start(c->loop, &c->timer, delay_us, on_timeout) == OK ? 0 : -1;
}

/* --- starting ---------------------------------------------------------------------------------------------------- */

static err copy_headers(struct arena *a, const struct client_request *from, struct client_request *to)
{
    struct pair *headers = NEW_N(a, struct pair, from->header_count);
    if (headers == NULL)
        return ERR_MEMORY;
    for (size_t i = 0; i < from->header_count; i++) {
        headers[i] = (struct pair){ str_dup(a, from->headers[i].name), str_dup(a, from->headers[i].value) };
        if (headers[i].name.p == NULL || headers[i].value.p == NULL)
            return ERR_MEMORY;
    }
    to->headers = headers;
    return OK;
}

static err copy_request(struct arena *a, const struct client_request *from, struct client_request *to)
{
    *to = *from;
    to->method = str_dup(a, from->method);
    to->url = str_dup(a, from->url);
    if (from->body.p != NULL)
        to->body = str_dup(a, from->body);
    if (to->method.p == NULL || to->url.p == NULL || (from->body.p != NULL && to->body.p == NULL))
        return ERR_MEMORY;
    return copy_headers(a, from, to);
}

static void on_early_failure(struct loop_timer *t)
{
    struct client_call *call = CONTAINER(t, struct client_call, fail_timer);
    call_fail(call, call->early);
}

static err fail_later(struct client_call *call, const struct failure *why)
{
    call->early = why;
    return loop_timer_start(call->client->loop, &call->fail_timer, 0, on_early_failure);
}

static err launch(struct client_call *call)
{
    if (fault_hit(FAULT_OUTGOING))
        return fail_later(call, &fault);
    CURLU *url = parse_url(call->arena, call->request.url);
    if (url == NULL || !take_url(call, url)) {
        curl_url_cleanup(url);
        return fail_later(call, &bad_url);
    }
    call->easy = curl_easy_init();
    TRY(call->easy != NULL ? set_options(call) : ERR_MEMORY);
    TRY(build_headers(call, false));
    TRY(set_hop(call));
    return curl_multi_add_handle(call->client->multi, call->easy) == CURLM_OK ? OK : ERR_MEMORY;
}

static struct client_call *call_new(struct client *c, struct arena *a, const struct client_request *request)
{
    struct client_call *call = NEW(a, struct client_call);
    if (call == NULL || copy_request(a, request, &call->request) != OK)
        return NULL;
    call->client = c;
    call->arena = a;
    call->started_us = clock_mono_us();
    call->body = (struct buf){ .arena = a, .max = request->max_body_bytes };
    call->next = c->calls;
    if (call->next != NULL)
        call->next->prev = call;
    c->calls = call;
    c->running++;
    return call;
}

err client_start(struct client *c, struct arena *a, const struct client_request *request,
                 void (*done)(void *ctx, const struct client_answer *answer), void *ctx, struct client_call **out)
{
    assert(loop_is_current(c->loop));
    if (c->running >= CALLS_MAX)
        return ERR_BUSY;
    TRY(check_request(request));
    struct client_call *call = call_new(c, a, request);
    if (call == NULL)
        return ERR_MEMORY;
    call->done = done;
    call->ctx = ctx;
    err e = launch(call);
    if (e != OK) {
        call_release(call);
        return e;
    }
    *out = call;
    return OK;
}

u32 client_running(const struct client *c)
{
    return c->running;
}

/* --- life -------------------------------------------------------------------------------------------------------- */

static pthread_once_t global_once = PTHREAD_ONCE_INIT;
static CURLcode global_result;

static void init_global(void)
{
    global_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static err set_multi(struct client *c)
{
    int bad = 0;
    bad |= curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    bad |= curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    bad |= curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    bad |= curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    bad |= curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)POOL_MAX);
    return bad != 0 ? ERR_MEMORY : OK;
}

struct client *client_new(struct loop *l, const struct egress *egress)
{
    pthread_once(&global_once, init_global);
    struct arena *a = global_result == CURLE_OK ? arena_new(CLIENT_ARENA_BYTES) : NULL;
    struct client *c = a != NULL ? NEW(a, struct client) : NULL;
    if (c != NULL) {
        *c = (struct client){ .arena = a, .loop = l, .egress = egress, .multi = curl_multi_init() };
        if (c->multi != NULL && set_multi(c) == OK)
            return c;
        curl_multi_cleanup(c->multi);
    }
    arena_free(a);
    return NULL;
}

void client_free(struct client *c)
{
    if (c == NULL)
        return;
    while (c->calls != NULL)
        client_cancel(c->calls);
    curl_multi_cleanup(c->multi);
    loop_timer_stop(&c->timer);
    c->closing = true;
    if (c->watches == 0)
        arena_free(c->arena);
}
