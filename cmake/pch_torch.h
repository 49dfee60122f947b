// Precompiled header of the targets that use libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "pch_plain.h"
#include "tensor/aten.h"
