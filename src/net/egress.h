/* egress.h - where Weir may connect to: the guard against server-side request forgery (ASVS 5.0 V1.3.6, OWASP SSRF).
 *
 * Every socket that leaves is checked by the address it connects to, at the moment it connects, so a name that resolves differently the
 * second time gains nothing. Private, loopback, link-local, CGNAT, multicast, reserved and documentation ranges are refused for
 * IPv4 and IPv6, also as IPv4-mapped, -compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), 6to4, Teredo and ISATAP forms. */
#pragma once

#include "base/str.h"
#include <sys/socket.h>

struct egress; /* immutable; shared by all threads */

/* "10.0.0.0/8, 127.0.0.1:9000, internal.example:8443, [::1]:80": CIDR blocks, addresses, host:port. ERR_INVALID names the bad
 * entry in *bad. "" = nothing but public addresses. Lives on the arena. */
err egress_new(struct arena *a, str allow, const struct egress **out, str *bad) MUST;
/* May this socket address be connected to? `host` and `port` are those of the URL the request began with (host "" after a redirect). */
bool egress_allows(const struct egress *e, const struct sockaddr *address, str host, u16 port);
/* Is this a public unicast address? */
bool egress_public(const struct sockaddr *address);
