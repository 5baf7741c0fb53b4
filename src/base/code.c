/* code.c - the lists of codes that the binary was linked with. */
#include "base/code.h"

/* The linker makes these two from the section of that name; weak, so that a binary without any list still links. */
extern const struct code_list *const __start_weir_codes[] __attribute__((weak));
extern const struct code_list *const __stop_weir_codes[] __attribute__((weak));

const struct code_list *const *code_lists(size_t *count)
{
    *count = (size_t)(__stop_weir_codes - __start_weir_codes);
    return __start_weir_codes;
}
