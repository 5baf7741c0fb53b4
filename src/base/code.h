/* code.h - the stable codes that stand inside an answer, each layer's in one list: of an entry in a problem's `errors`, and of a step or execution that
 * failed. Codes that are an answer's own are problems (core/problem.h) and refusals (net/refusal.h).
 *
 *     CODES(json_codes, CODE_ENTRY, { "json.depth", "Nested deeper than 64 levels" }, …);
 *
 * A list registers itself, so it stands in a file that the binary is sure to link: one that gives the codes out. */
#pragma once

#include "base/base.h"

enum code_use {
    CODE_ENTRY,   /* errors[].code */
    CODE_FAILURE, /* error.code of a step or an execution */
};
struct code {
    const char *code, *title; /* "field.required"; one sentence without a full stop */
};
struct code_list {
    enum code_use use;
    const struct code *list;
    u32 n;
    const char *file;
    int line;
};
#define CODES(id, use_, ...)                                                                        \
    static const struct code id##_list[] = { __VA_ARGS__ };                                         \
    static const struct code_list id = { (use_), id##_list, COUNT(id##_list), __FILE__, __LINE__ }; \
    static const struct code_list *const id##_entry __attribute__((section("weir_codes"), used)) = &id
const struct code_list *const *code_lists(size_t *count);
