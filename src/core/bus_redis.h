/* bus_redis.h - the bus by Redis pub/sub, where REDIS_URL is set. */
#pragma once

#include "core/bus.h"

extern const struct bus_transport bus_redis;
