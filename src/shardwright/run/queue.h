// The calls of a group in their order: who comes to wait for one does all that are before it.

#pragma once

#include <deque>
#include <mutex>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "operation.h"

namespace shardwright {

using Options = c10::intrusive_ptr<c10d::Backend::Options>;

// The operations of a group that are not done, in the order of their calls.
class Queue : public c10::intrusive_ptr_target {
 public:
  // `options`: whose timeout holds where a call names none. For the others, see `Phases`.
  Queue(int rank, int size, int file, size_t slot, std::vector<int64_t> names, Options options)
      : phases_(rank, size, file, slot, std::move(names)), options_(std::move(options)) {}

  Phases& phases() {
    return phases_;
  }

  void start(const Pending& call) {
    std::lock_guard<std::mutex> lock(guard_);
    call->queue_ = c10::intrusive_ptr<Queue>::unsafe_reclaim_from_nonowning(this);
    calls_.push_back(call);
    progress();
  }

  // Do all of a call, and of those before it.
  void complete(Operation& call, Milliseconds timeout) {
    std::lock_guard<std::mutex> lock(guard_);
    if (timeout.count() <= 0) timeout = call.timeout_.count() > 0 ? call.timeout_ : options_->timeout;
    while (!call.is_done_) {
      try {
        if (!advance()) phases_.await_all(calls_.front()->kind(), timeout);
      } catch (...) {
        drop(std::current_exception());
      }
    }
  }

  // Do what can be done without waiting, unless another thread is at it.
  void try_to_complete() {
    std::unique_lock<std::mutex> lock(guard_, std::try_to_lock);
    if (lock.owns_lock()) progress();
  }

  void shutdown() {
    std::lock_guard<std::mutex> lock(guard_);
    drop(std::make_exception_ptr(std::runtime_error("the process group was shut down")));
  }

 private:
  Phases phases_;
  Options options_;
  std::mutex guard_;
  std::deque<Pending> calls_;  // the first has begun

  void progress() {
    try {
      phases_.check();
      while (!calls_.empty() && advance()) {
      }
    } catch (...) {
      drop(std::current_exception());
    }
  }

  // Bring the first call on as far as it goes without waiting; whether it is done, and gone.
  bool advance() {
    if (!calls_.front()->advance(phases_)) return false;
    end(nullptr);
    return true;
  }

  // Take the first call out.
  void end(const std::exception_ptr& failure) {
    auto call = std::move(calls_.front());
    calls_.pop_front();
    call->end(failure);
  }

  void drop(const std::exception_ptr& failure) {
    while (!calls_.empty()) end(failure);
  }
};

inline bool Operation::isCompleted() {
  queue_->try_to_complete();
  return Work::isCompleted();
}

inline bool Operation::wait(Milliseconds timeout) {
  queue_->complete(*this, timeout);
  if (exception_) std::rethrow_exception(exception_);
  return true;
}

}  // namespace shardwright
