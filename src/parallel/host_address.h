// Addresses of hosts, and sockets at them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace lockstep::parallel {

/// The numeric address of `host`; IPv4's where it has both. Throws IoError "unknown-host".
std::string resolve_host(const std::string& host);
/// Whether a numeric address is one that only this host reaches.
bool is_loopback(const std::string& address);
/// The address of this host under which `host` sees it. Throws IoError "unknown-host", or
/// "no-route".
std::string local_address_towards(const std::string& host);
/// A socket that listens at a numeric address of this host, or at all of its addresses where
/// `address` is "", and closes on exec. Throws IoError "store-address".
int listen_at(const std::string& address, uint16_t port);
/// The port at which a socket listens.
uint16_t port_of(int socket);

}  // namespace lockstep::parallel
