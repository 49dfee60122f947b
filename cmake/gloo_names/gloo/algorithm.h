// The wheel has Gloo's code but not its headers. What c10d's header needs of them are these names;
// no class is made, derived from or looked into by us.
// SPDX-License-Identifier: Apache-2.0
#pragma once
