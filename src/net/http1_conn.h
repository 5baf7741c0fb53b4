/* http1_conn.h - what the two halves of HTTP/1 on a connection, its requests and its answers, need of each other. */
#pragma once

#include "net/conn.h"

/* http1_conn.c: the answer has been handed to the writer: flush, then the next request or the end. */
void http1_answered(struct conn *c, bool keep);

/* http1_reply.c */
void http1_send_refusal(struct conn *c, int status, const struct http_refusal *said);
void http1_reply(struct http_stream *x, int status, const struct pair *headers, size_t count, str body);
void http1_drop(struct http_stream *x);
void http1_begin(struct http_stream *x, int status, const struct pair *headers, size_t count);
void http1_write(struct http_stream *x, str bytes);
void http1_end(struct http_stream *x);
size_t http1_unsent(const struct http_stream *x);
