/* websocket.c - see websocket.h. wslay reads and makes frames; it holds no message longer than one call. */
#include "net/websocket.h"

#include "codec/base64.h"

#include <openssl/evp.h>
#include <string.h>
#include <wslay/wslay.h>

enum { KEY_BYTES = 16, KEY_TEXT_MAX = 64 };

struct websocket {
    wslay_event_context_ptr frames;
    str input; /* what wslay has not read yet */
    void (*send)(void *ctx, str bytes);
    void *ctx;
};

/* --- the handshake ----------------------------------------------------------------------------------------------- */

/* Whether a comma-separated field names the token. */
static bool names(const struct http_request *rq, str field, str token)
{
    for (u32 i = 0; i < rq->header_count; i++) {
        str rest = rq->headers[i].value, one;
        if (!str_eq(rq->headers[i].name, field))
            continue;
        while (str_cut(&rest, ',', &one))
            if (str_eq_nocase(str_trim(one), token))
                return true;
    }
    return false;
}

bool websocket_asked(const struct http_request *rq)
{
    return http_can_upgrade(rq) && names(rq, S("upgrade"), S("websocket")) && names(rq, S("connection"), S("upgrade"));
}

static const char *what_is_wrong(const struct http_request *rq, str key)
{
    u8 bytes[KEY_TEXT_MAX];
    size_t n = 0;
    if (rq->method != GET)
        return "A WebSocket is asked for by GET";
    if (!str_eq(http_header(rq, S("sec-websocket-version")), S("13")))
        return "Sec-WebSocket-Version must be 13";
    bool good = http_header_count(rq, S("sec-websocket-key")) == 1 && key.n < KEY_TEXT_MAX &&
                base64_decode_into(BASE64, key, bytes, &n) && n == KEY_BYTES;
    return good ? NULL : "Sec-WebSocket-Key must be 16 bytes in base64, once";
}

err websocket_accept(const struct http_request *rq, struct arena *a, str *accept, const char **complaint)
{
    u8 digest[EVP_MAX_MD_SIZE];
    unsigned n;
    str key = http_header(rq, S("sec-websocket-key"));
    *complaint = what_is_wrong(rq, key);
    if (*complaint != NULL)
        return ERR_DECODE;
    str parts[] = { key, S("258EAFA5-E914-47DA-95CA-C5AB0DC85B11") };
    str text = str_concat(a, parts, COUNT(parts));
    if (text.p == NULL || EVP_Digest(text.p, text.n, digest, &n, EVP_sha1(), NULL) != 1)
        return ERR_MEMORY;
    *accept = base64_encode(a, BASE64, (str){ (const char *)digest, n });
    return accept->p != NULL ? OK : ERR_MEMORY;
}

/* --- frames ------------------------------------------------------------------------------------------------------ */

static ssize_t on_read(wslay_event_context_ptr frames, u8 *to, size_t room, int flags, void *user)
{
    struct websocket *w = user;
    size_t n = MIN(room, w->input.n);
    if (n == 0) {
        wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    memcpy(to, w->input.p, n);
    w->input = str_slice(w->input, n, w->input.n);
    return (ssize_t)n;
}

static ssize_t on_write(wslay_event_context_ptr frames, const u8 *bytes, size_t n, int flags, void *user)
{
    struct websocket *w = user;
    w->send(w->ctx, (str){ (const char *)bytes, n });
    return (ssize_t)n;
}

static void on_message(wslay_event_context_ptr frames, const struct wslay_event_on_msg_recv_arg *m, void *user)
{
    if (m->opcode == WSLAY_TEXT_FRAME || m->opcode == WSLAY_BINARY_FRAME)
        (void)wslay_event_queue_close(frames, WSLAY_CODE_UNSUPPORTED_DATA, NULL, 0);
}

static void websocket_end(void *arg)
{
    struct websocket *w = arg;
    wslay_event_context_free(w->frames);
}

err websocket_new(struct arena *a, void (*send)(void *ctx, str bytes), void *ctx, struct websocket **out)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_read,
        .send_callback = on_write,
        .on_msg_recv_callback = on_message,
    };
    struct websocket *w = NEW(a, struct websocket);
    if (w == NULL || wslay_event_context_server_init(&w->frames, &callbacks, w) != 0)
        return ERR_MEMORY;
    w->send = send;
    w->ctx = ctx;
    wslay_event_config_set_max_recv_msg_length(w->frames, WEBSOCKET_MESSAGE_MAX);
    if (!arena_defer(a, websocket_end, w))
        return ERR_MEMORY;
    *out = w;
    return OK;
}

/* What is wrong with the client's frames, wslay puts into the Close that it queues. */
bool websocket_input(struct websocket *w, str bytes)
{
    w->input = bytes;
    bool fine = wslay_event_recv(w->frames) == 0;
    w->input = STR_NONE;
    return wslay_event_send(w->frames) == 0 && fine && wslay_event_get_close_sent(w->frames) == 0;
}

static err say(struct websocket *w, u8 opcode, str text)
{
    struct wslay_event_msg m = { .opcode = opcode, .msg = (const u8 *)text.p, .msg_length = text.n };
    if (wslay_event_queue_msg(w->frames, &m) != 0 || wslay_event_send(w->frames) != 0)
        return ERR_MEMORY;
    return OK;
}

err websocket_text(struct websocket *w, str text)
{
    return say(w, WSLAY_TEXT_FRAME, text);
}

/* One that is lost is made up for by the next. */
void websocket_ping(struct websocket *w)
{
    (void)say(w, WSLAY_PING, S(""));
}

void websocket_close(struct websocket *w, enum websocket_code code)
{
    if (wslay_event_queue_close(w->frames, (u16)code, NULL, 0) == 0)
        (void)wslay_event_send(w->frames);
}
