// SPDX-License-Identifier: Apache-2.0
#undef TORCH_ASSERT_ONLY_METHOD_OPERATORS
#define USE_C10D_GLOO
#include "parallel/c10d_group.h"

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>

#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "base/check.h"
#include "parallel/mesh_group.h"

namespace lockstep::parallel {
namespace {

using c10d::ProcessGroupGloo;

/// A store of ours, as c10d asks for it.
class StoreForC10d : public c10d::Store {
 public:
  StoreForC10d(std::unique_ptr<parallel::Store> store, std::chrono::milliseconds deadline)
      : c10d::Store(deadline), store_(std::move(store)) {}

  c10::intrusive_ptr<c10d::Store> clone() override {
    return c10::make_intrusive<StoreForC10d>(store_->another(), timeout_);
  }
  void set(const std::string& key, const std::vector<uint8_t>& value) override {
    store_->set(key, {value.begin(), value.end()});
  }
  std::vector<uint8_t> get(const std::string& key) override {
    const std::string value = store_->get(key, timeout_);
    return {value.begin(), value.end()};
  }
  int64_t add(const std::string& key, int64_t value) override { return store_->add(key, value); }
  bool check(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys)
      if (!store_->has(key)) return false;
    return true;
  }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& time) override {
    if (!store_->wait(keys, time))
      fail<PeerError>("store-late", "the store", "expected {} within {} ms, got nothing",
                      keys.empty() ? "" : keys.front(), time.count());
  }
  bool deleteKey(const std::string& key) override { refuse("deletion of", key); }
  int64_t getNumKeys() override { refuse("counting", "keys"); }

 private:
  [[noreturn]] static void refuse(std::string_view what, const std::string& key) {
    fail<InternalError>("internal", "the store", "expected no {} {}", what, key);
  }

  std::unique_ptr<parallel::Store> store_;
};

/// What Gloo says of an error, without the place in its source before and the advice behind it.
std::string short_text(std::string_view text) {
  if (text.starts_with('[')) {
    const size_t end = text.find("] ");
    if (end != std::string_view::npos) text.remove_prefix(end + 2);
  }
  return std::string(text.substr(0, std::min(text.find(". This is"), text.find('\n'))));
}

class GlooTransfer : public Transfer {
 public:
  explicit GlooTransfer(c10::intrusive_ptr<c10d::Work> work) : work_(std::move(work)) {}

  bool wait(std::chrono::milliseconds time) override {
    try {
      return work_->wait(time);
    } catch (const std::exception& error) {
      throw std::runtime_error(short_text(error.what()));
    }
  }
  void cancel() override { work_->abort(); }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
};

class GlooMesh : public Mesh {
 public:
  explicit GlooMesh(c10::intrusive_ptr<ProcessGroupGloo> group) : group_(std::move(group)) {}

  int64_t rank() const override { return group_->getRank(); }
  int64_t size() const override { return group_->getSize(); }
  std::unique_ptr<Transfer> send(std::span<const std::byte> bytes,
                                 int64_t to,
                                 uint32_t tag) override {
    // Gloo only reads what it sends.
    auto tensors = tensor_of({const_cast<std::byte*>(bytes.data()), bytes.size()});
    return begin(
        [&] { return group_->send(tensors, static_cast<int>(to), static_cast<int>(tag)); });
  }
  std::unique_ptr<Transfer> receive(std::span<std::byte> bytes,
                                    int64_t from,
                                    uint32_t tag) override {
    auto tensors = tensor_of(bytes);
    return begin(
        [&] { return group_->recv(tensors, static_cast<int>(from), static_cast<int>(tag)); });
  }

 private:
  static std::vector<at::Tensor> tensor_of(std::span<std::byte> bytes) {
    return {at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size())}, at::kByte)};
  }
  template <class Begin>
  static std::unique_ptr<Transfer> begin(Begin&& work) {
    try {
      return std::make_unique<GlooTransfer>(work());
    } catch (const std::exception& error) {
      throw std::runtime_error(short_text(error.what()));
    }
  }

  c10::intrusive_ptr<ProcessGroupGloo> group_;
};

/// Makes all open files but the standard streams close on exec: a program that this process starts
/// would otherwise keep connections of a rank that has died, and the others would wait for it.
void close_files_on_exec() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int descriptor = std::atoi(entry.path().filename().c_str());
    if (descriptor <= STDERR_FILENO) continue;
    const int flags = ::fcntl(descriptor, F_GETFD);
    if (flags >= 0) ::fcntl(descriptor, F_SETFD, flags | FD_CLOEXEC);
  }
}

}  // namespace

std::unique_ptr<Group> make_c10d_group(std::unique_ptr<Store> store, const C10dPlace& place) {
  struct sigaction action {};
  if (::sigaction(SIGPIPE, nullptr, &action) == 0 && action.sa_handler == SIG_DFL)
    std::signal(SIGPIPE, SIG_IGN);
  const auto options = ProcessGroupGloo::Options::create(place.deadline);
  // Its threads are for calls that we do not make.
  options->threads = 1;
  c10::intrusive_ptr<ProcessGroupGloo> group;
  try {
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname(place.address));
    group = c10::make_intrusive<ProcessGroupGloo>(
        c10::make_intrusive<StoreForC10d>(std::move(store), place.deadline),
        static_cast<int>(place.rank), static_cast<int>(place.size), options);
  } catch (const std::exception& error) {
    const auto* const ours = dynamic_cast<const PeerError*>(&error);
    if (ours && ours->code() == "store-lost") throw;
    fail<PeerError>("rank-late", place.address,
                    "expected {} ranks to connect within {} ms, got on rank {}: {}", place.size,
                    place.deadline.count(), place.rank, short_text(error.what()));
  }
  close_files_on_exec();
  return make_mesh_group(std::make_unique<GlooMesh>(std::move(group)), place.call_deadline);
}

}  // namespace lockstep::parallel
