// SPDX-License-Identifier: Apache-2.0
#include "serve/request_target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::serve {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(RequestTarget, PathAndQueryAreDecoded) {
  const auto target = parse_target("/v1/m%C3%B6del+x?mode=keep&a%20b=c+d&empty=&alone&mode=wait");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->path,
            "/v1/m\xc3\xb6"
            "del+x");
  EXPECT_THAT(target->query, ElementsAre(Pair("a b", "c d"), Pair("alone", ""), Pair("empty", ""),
                                         Pair("mode", "wait")));
}

TEST(RequestTarget, AProxysFormAndAFragmentAreRead) {
  EXPECT_EQ(parse_target("http://host:80/health?x=1")->path, "/health");
  EXPECT_EQ(parse_target("https://host")->path, "/");
  EXPECT_EQ(parse_target("/health#part")->path, "/health");
  EXPECT_TRUE(parse_target("/?#a=b")->query.empty());
  EXPECT_TRUE(parse_target("/?&&")->query.empty());
}

TEST(RequestTarget, WhatIsNoTextIsRefused) {
  for (const char* target : {"", "*", "health", "ftp://host/x", "/%", "/%4", "/%zz", "/a%00b",
                             "/%ff", "/%c3", "/\xff", "/x?a=%f", "/x?%=1", "/x?a=%80"})
    EXPECT_FALSE(parse_target(target)) << target;
}

}  // namespace
}  // namespace lockstep::serve
