// Carries the precompiled header pch_plain.h.
// SPDX-License-Identifier: Apache-2.0
