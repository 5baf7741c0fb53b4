/* doctor.h - is this machine fit to serve with these settings? */
#pragma once

#include "base/buf.h"

/* A line for each check: ok, warn or fail, what was looked at, what was found, and what to do. Changes nothing. False when one failed. */
bool doctor(struct buf *b);
