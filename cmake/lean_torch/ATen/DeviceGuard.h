// In front of libtorch's header of this name, which every ATen/ops header includes and only wide
// headers use. A file that needs it defines LOCKSTEP_WIDE_TORCH; without it a file compiles 2 s
// faster.
// SPDX-License-Identifier: Apache-2.0
#pragma once
#ifdef LOCKSTEP_WIDE_TORCH
#include_next <ATen/DeviceGuard.h>
#endif
