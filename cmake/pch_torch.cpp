// Carries the precompiled header pch_torch.h.
// SPDX-License-Identifier: Apache-2.0
