/* transform.c - names for values: the output is `with`, evaluated. */
#include "engine/steps/kinds.h"

const struct table kind_transform_with = {
    .name = "TransformWith",
    .open = true,
    .doc = "Named values; each may hold expressions",
};

static void transform_start(struct step_attempt *s)
{
    step_complete(s, *s->with);
}

const struct step_kind kind_transform = {
    .type = "transform",
    .doc = "Builds an object from expressions",
    .with = &kind_transform_with,
    .output_doc = "The object",
    .start = transform_start,
};
