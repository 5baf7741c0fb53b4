/* kinds.h - the step kinds by type: kind_<type>, and the table of its `with`, kind_<type>_with. */
#pragma once

#include "engine/step.h"

extern const struct step_kind kind_http, kind_transform, kind_script, kind_respond, kind_delay, kind_fail,
    kind_condition, kind_switch, kind_foreach, kind_workflow;
extern const struct table kind_http_with, kind_transform_with, kind_script_with, kind_respond_with, kind_delay_with,
    kind_fail_with, kind_condition_with, kind_switch_with, kind_foreach_with, kind_workflow_with;
