/* forwarded.h - who the client is when proxies stand in front: WEIR_TRUSTED_PROXIES says whose word counts, WEIR_PROXY_HEADER in which form. */
#pragma once

#include "core/config.h"
#include "net/http.h"

enum { PROXIES_MAX = 64, HOPS_MAX = 32 };

/* Whether the list can be used; *bad names the first entry that cannot. */
bool forwarded_list_valid(str list, str *bad);
/* From the settings, once, at start. Without it nobody is believed. */
err forwarded_build(const struct config *config) MUST;
/* At the head of a request: when its peer is a trusted proxy, `remote`, `tls` and the Host become what the client's were. ERR_MEMORY. */
err forwarded_apply(struct http_request *http) MUST;
