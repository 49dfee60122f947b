// EXPECT_ERROR: a statement throws an error of a type, with a code, and words in its message.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"

/// Fails unless `statement` throws `Type` with code `code_` whose what() contains `words_`.
#define EXPECT_ERROR(statement, Type, code_, words_)                        \
  do {                                                                      \
    try {                                                                   \
      statement;                                                            \
      ADD_FAILURE() << #statement " threw nothing";                         \
    } catch (const Type& error) {                                           \
      EXPECT_EQ(error.code(), code_);                                       \
      EXPECT_THAT(std::string(error.what()), ::testing::HasSubstr(words_)); \
    }                                                                       \
  } while (false)
